curl https://api.oxyy.ai/v1/chat/completions \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -d '{"model": "chatgpt-4o-latest", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0.7}'
