import fs from 'fs';
import OpenAI from 'openai';

const client = new OpenAI({ apiKey: 'YOUR_API_KEY', baseURL: 'https://api.oxyy.ai/v1' });

const response = await client.images.edit({
  model: 'flux.1-kontext-max',
  image: fs.createReadStream('source.png'),
  prompt: 'Change the background to a beach sunset',
  n: 1, size: '1024x1024'
});

console.log(response.data[0].url);
