import requests, time

headers = { "Authorization": "Bearer YOUR_API_KEY", "Content-Type": "application/json" }

# Step 1: Submit video generation job
response = requests.post("https://api.oxyy.ai/v1/videos/generations",
    headers=headers,
    json={'model': 'veo-3', 'prompt': 'A serene lake', 'duration': 4})
job = response.json()
job_id = job["id"]
print(f"Job submitted: {job_id}")

# Step 2: Poll for completion
while True:
    status = requests.get(
        f"https://api.oxyy.ai/v1/videos/generations/{job_id}",
        headers=headers
    ).json()

    if status["status"] == "completed":
        print("Video ready:", status["video_url"])
        break
    elif status["status"] == "failed":
        print("Generation failed:", status.get("error"))
        break
    else:
        print(f"Status: {status["status"]}... waiting")
        time.sleep(5)
