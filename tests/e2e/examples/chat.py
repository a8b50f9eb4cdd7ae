from openai import OpenAI

client = OpenAI(
    api_key="YOUR_API_KEY",
    base_url="https://api.oxyy.ai/v1"
)

response = client.chat.completions.create(
    model="chatgpt-4o-latest",
    messages=[{"role": "user", "content": "Hello!"}],
    temperature=0.7,
    max_tokens=4096
)

print(response.choices[0].message.content)
