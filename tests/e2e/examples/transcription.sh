curl https://api.oxyy.ai/v1/audio/transcriptions \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -F "model=gpt-4o-mini-transcribe" \
  -F "file=@interview.mp3" \
  -F "response_format=verbose_json" \
  -F "language=en"
