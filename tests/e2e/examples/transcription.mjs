import fs from 'fs';
import OpenAI from 'openai';

const client = new OpenAI({ apiKey: 'YOUR_API_KEY', baseURL: 'https://api.oxyy.ai/v1' });

const response = await client.audio.transcriptions.create({
  model: 'gpt-4o-mini-transcribe',
  file: fs.createReadStream('interview.mp3'),
  response_format: 'verbose_json',
  language: 'en'
});

console.log(response.text);
