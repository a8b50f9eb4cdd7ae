# Image-to-Image / Image Edit — upload a source image
import requests

headers = { "Authorization": "Bearer YOUR_API_KEY" }

# Use multipart/form-data for file uploads
files = { "image": open("source.png", "rb") }
data = {
    "model": "flux.1-kontext-max",
    "prompt": "Change the background to a beach sunset",
    "n": "1",
    "size": "1024x1024"
}

response = requests.post(
    "https://api.oxyy.ai/v1/images/edits",
    headers=headers, files=files, data=data
)
print(response.json())
