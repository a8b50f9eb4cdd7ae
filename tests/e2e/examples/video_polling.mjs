const headers = {
  'Authorization': 'Bearer YOUR_API_KEY',
  'Content-Type': 'application/json'
};

// Step 1: Submit video generation job
const job = await fetch('https://api.oxyy.ai/v1/videos/generations', {
  method: 'POST', headers,
  body: JSON.stringify({ model: 'veo-3', prompt: 'A serene lake', duration: 4 })
}).then(r => r.json());

console.log('Job submitted:', job.id);

// Step 2: Poll for completion
while (true) {
  const status = await fetch(
    `https://api.oxyy.ai/v1/videos/generations/${job.id}`,
    { headers }
  ).then(r => r.json());

  if (status.status === 'completed') {
    console.log('Video ready:', status.video_url);
    break;
  } else if (status.status === 'failed') {
    console.error('Failed:', status.error);
    break;
  }
  console.log(`Status: ${status.status}... waiting`);
  await new Promise(r => setTimeout(r, 5000));
}
