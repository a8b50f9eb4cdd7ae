import requests

headers = { "Authorization": "Bearer YOUR_API_KEY", "Content-Type": "application/json" }

response = requests.post("https://api.oxyy.ai/v1/videos/generations", headers=headers,
    json={'model': 'veo-3', 'prompt': 'A serene lake with mountains', 'duration': 4})
job = response.json()
print("Job ID:", job["id"])
