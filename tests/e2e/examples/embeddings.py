from openai import OpenAI

client = OpenAI(api_key="YOUR_API_KEY", base_url="https://api.oxyy.ai/v1")

response = client.embeddings.create(
    model="gemini-embedding-001",
    input="The quick brown fox jumps over the lazy dog"
)
embedding = response.data[0].embedding
print(len(embedding), "dimensions")
