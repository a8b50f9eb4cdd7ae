curl https://api.oxyy.ai/v1/audio/transcriptions \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -F "model=gpt-4o-mini-transcribe" \
  -F "file=@audio.mp3"
