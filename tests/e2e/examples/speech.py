from openai import OpenAI
from pathlib import Path

client = OpenAI(api_key="YOUR_API_KEY", base_url="https://api.oxyy.ai/v1")

response = client.audio.speech.create(
    model="eleven_english_sts_v2", voice="alloy",
    input="Hello! This is a text-to-speech test."
)
response.stream_to_file(Path("output.mp3"))
