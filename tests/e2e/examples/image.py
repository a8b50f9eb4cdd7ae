from openai import OpenAI

client = OpenAI(api_key="YOUR_API_KEY", base_url="https://api.oxyy.ai/v1")

response = client.images.generate(
    model="dall-e-3",
    prompt="A beautiful sunset over the ocean",
    n=1, size="1024x1024"
)
print(response.data[0].url)
