import OpenAI from 'openai';

const client = new OpenAI({
  apiKey: 'YOUR_API_KEY',
  baseURL: 'https://api.oxyy.ai/v1'
});

const response = await client.chat.completions.create({
  model: 'chatgpt-4o-latest',
  messages: [{ role: 'user', content: 'Hello!' }],
  temperature: 0.7, max_tokens: 4096
});

console.log(response.choices[0].message.content);
