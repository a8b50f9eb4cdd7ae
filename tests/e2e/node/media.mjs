// What a service does with the official SDK beside chat. Opens one.png, two.png, mask.png and talk.mp3 in the working
// directory; the environment names the URL and the key. Prints one JSON object: what it was answered.
import fs from 'node:fs';
import crypto from 'node:crypto';
import OpenAI from 'openai';

const client = new OpenAI();
const open = (name) => fs.createReadStream(name);
const sha256 = (bytes) => crypto.createHash('sha256').update(Buffer.from(bytes)).digest('hex');
const told = { transcripts: {}, speech: {} };

const prompt = 'A cat';
const made = await client.images.generate({ model: 'flux.1-pro', prompt, n: 2, response_format: 'b64_json' });
told.images = made.data.map((image) => image.b64_json);

const image = [open('one.png'), open('two.png')];
const edited = await client.images.edit({ model: 'gpt-image-1', image, mask: open('mask.png'), prompt });
told.edited = edited.data[0].url;
told.usage = edited.usage;

for (const response_format of ['json', 'text', 'verbose_json', 'srt', 'vtt']) {
  const file = open('talk.mp3');
  told.transcripts[response_format] = await client.audio.transcriptions.create({
    model: 'whisper-1', file, response_format
  });
}

const events = await client.audio.transcriptions.create({
  model: 'gpt-4o-mini-transcribe', file: open('talk.mp3'), stream: true
});
told.deltas = '';
for await (const event of events) {
  if (event.type === 'transcript.text.delta') told.deltas += event.delta;
  if (event.type === 'transcript.text.done') told.done = event.text;
}

for (const response_format of ['mp3', 'opus', 'aac', 'flac', 'wav', 'pcm']) {
  const sound = await client.audio.speech.create({ model: 'tts-1-hd', voice: 'alloy', input: 'Hello!', response_format });
  told.speech[response_format] = sha256(await sound.arrayBuffer());
}

told.vectors = [];
for (const wish of [{}, { encoding_format: 'float' }]) { // unasked, the SDK takes base64 and unpacks it
  const answer = await client.embeddings.create({ model: 'gemini-embedding-001', input: 'a text', ...wish });
  told.vectors.push(answer.data[0].embedding);
}

told.models = (await client.models.list()).data.map((model) => model.id);
told.model = await client.models.retrieve('veo-3');
console.log(JSON.stringify(told));
