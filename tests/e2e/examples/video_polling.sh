# Step 1: Submit job
curl -X POST https://api.oxyy.ai/v1/videos/generations \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -d '{"model": "veo-3", "prompt": "A serene lake", "duration": 4}'

# Step 2: Poll using the returned job ID
curl https://api.oxyy.ai/v1/videos/generations/job_vid_abc123 \
  -H "Authorization: Bearer YOUR_API_KEY"
