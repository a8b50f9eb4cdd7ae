curl https://api.oxyy.ai/v1/videos/generations \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -F "model=veo-3" \
  -F "image=@photo.jpg" \
  -F "prompt=Slowly pan across the scene with gentle motion" \
  -F "duration=4" \
  -F "resolution=1080p"
