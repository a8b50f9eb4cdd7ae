# Image-to-Video — upload an image to animate
import requests

headers = { "Authorization": "Bearer YOUR_API_KEY" }

files = { "image": open("photo.jpg", "rb") }
data = {
    "model": "veo-3",
    "prompt": "Slowly pan across the scene with gentle motion",
    "duration": "4",
    "resolution": "1080p"
}

response = requests.post(
    "https://api.oxyy.ai/v1/videos/generations",
    headers=headers, files=files, data=data
)
job = response.json()
print("Job ID:", job["id"])
