// Each library asks for what is allowed, for what carries a secret, and for a host that no route names, and says in a line
// what came of it: `library|what|outcome`. Nothing in here knows of carboy.
import { createRequire } from 'node:module';

const [, , modules, secret] = process.argv;
const require = createRequire(`${modules}/`);
const undici = require('undici');
const WebSocket = require('ws');

const http2 = new undici.Agent({ allowH2: true });

const clients = {
  async fetch(host, text) {
    const answer = await fetch(`https://${host}/echo?fetch`, { method: 'POST', body: text });
    return `${answer.status} ${await answer.text()}`;
  },
  async undici(host, text) {
    const answer = await undici.request(`https://${host}/echo?undici`, { method: 'POST', body: text });
    return `${answer.statusCode} ${await answer.body.text()}`;
  },
  async 'undici h2'(host, text) {
    const ask = { method: 'POST', body: text, dispatcher: http2 };
    const answer = await undici.request(`https://${host}/echo?undici-h2`, ask);
    return `${answer.statusCode} ${await answer.body.text()}`;
  },
  ws(host, text) {
    return new Promise((done, failed) => {
      const socket = new WebSocket(`wss://${host}/socket`);
      socket.on('open', () => socket.send(text));
      socket.on('message', (data) => { done(String(data)); socket.close(); });
      socket.on('close', (code, reason) => done(`closed ${code} ${reason}`));
      socket.on('error', failed);
    });
  },
};

async function attempt(name, what, host, text) {
  let outcome;
  try {
    outcome = await clients[name](host, text);
  } catch (error) {
    outcome = `${error.message} ${error.cause ?? ''} ${error.code ?? ''}`;
  }
  console.log(`${name}|${what}|${outcome.replaceAll('\n', ' ')}`);
}

for (const name of Object.keys(clients)) {
  await attempt(name, 'allowed', 'notes.example', `hello from ${name}`);
  await attempt(name, 'secret', 'notes.example', `${name}, ${secret}`);
  await attempt(name, 'denied', 'denied.example', 'anybody there?');
}
process.exit(0);
