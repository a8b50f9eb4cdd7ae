# Speech-to-Text — upload audio for transcription
from openai import OpenAI

client = OpenAI(api_key="YOUR_API_KEY", base_url="https://api.oxyy.ai/v1")

# Supported: mp3, mp4, mpeg, mpga, m4a, wav, webm
with open("interview.mp3", "rb") as audio_file:
    response = client.audio.transcriptions.create(
        model="gpt-4o-mini-transcribe",
        file=audio_file,
        response_format="verbose_json",
        language="en"
    )

print("Text:", response.text)
for seg in response.segments:
    print(f"{seg.start:.1f}s - {seg.end:.1f}s: {seg.text}")
