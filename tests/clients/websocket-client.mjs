// Talks to `websocket-server.mjs` through an ingress with the package `ws`: URL and address of the ingress as arguments. Ends with 0 when all
// came as it must.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import WebSocket from 'ws';

const [url, address] = process.argv.slice(2);
const options = { rejectUnauthorized: false, lookup: (_name, wanted, done) => {
  const found = { address, family: 4 };
  if (wanted.all) done(null, [found]);
  else done(null, found.address, found.family);
} };
const open = async () => {
  const socket = new WebSocket(url, ['echo.v1', 'other'], options);
  const waiting = [];
  const come = [];
  socket.on('message', (data, binary) => {
    const message = binary ? data : data.toString();
    if (waiting.length > 0) waiting.shift()(message);
    else come.push(message);
  });
  const next = () => (come.length > 0 ? Promise.resolve(come.shift()) : new Promise((done) => waiting.push(done)));
  await once(socket, 'open');
  assert.equal(socket.protocol, 'echo.v1');
  assert.equal(await next(), `${new URL(url).host} ${new URL(url).pathname} echo.v1`);
  return { socket, next };
};

const { socket, next } = await open();
socket.send('grüße');
assert.equal(await next(), 'grüße');
socket.send('');
assert.equal(await next(), '');
// Longer than any buffer on the way, and in several frames of one message.
const long = randomBytes(3 << 20);
socket.send(long);
assert.ok(long.equals(await next()));
socket.send('in ', { fin: false });
socket.send('parts', { fin: true });
assert.equal(await next(), 'in parts');
socket.ping('are you there');
assert.equal((await once(socket, 'pong'))[0].toString(), 'are you there');
socket.send('ping and-you');
assert.equal(await next(), 'pong and-you');
socket.send('close 4001 enough');
const [code, reason] = await once(socket, 'close');
assert.deepEqual([code, reason.toString()], [4001, 'enough']);

const second = await open();
second.socket.close(4002, 'bye');
assert.equal((await once(second.socket, 'close'))[0], 4002);
