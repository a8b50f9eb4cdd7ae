from openai import OpenAI

client = OpenAI(api_key="YOUR_API_KEY", base_url="https://api.oxyy.ai/v1")

with open("audio.mp3", "rb") as f:
    response = client.audio.transcriptions.create(
        model="gpt-4o-mini-transcribe", file=f, response_format="verbose_json"
    )
print(response.text)
