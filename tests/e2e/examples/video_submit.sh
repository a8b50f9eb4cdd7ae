curl https://api.oxyy.ai/v1/videos/generations \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -d '{"model": "veo-3", "prompt": "A serene lake with mountains", "duration": 4, "resolution": "1080p"}'
