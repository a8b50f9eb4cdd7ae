const client = new OpenAI({ apiKey: 'YOUR_API_KEY', baseURL: 'https://api.oxyy.ai/v1' });

const response = await client.images.generate({
  model: 'dall-e-3', prompt: 'A beautiful sunset over the ocean', n: 1, size: '1024x1024'
});
console.log(response.data[0].url);
