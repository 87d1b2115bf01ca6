// An echo over websockets, by the package `ws`. Its first line is the port that it listens on. It says what came with the handshake, answers
// `close CODE REASON` by closing so, and asks `ping DATA` back by a ping of its own.
import { WebSocketServer } from 'ws';

const server = new WebSocketServer({ host: '0.0.0.0', port: 0, handleProtocols: (offered) => [...offered][0] });
server.on('listening', () => console.log(server.address().port));
server.on('connection', (socket, request) => {
  socket.send(`${request.headers.host} ${request.url} ${socket.protocol}`);
  socket.on('pong', (data) => socket.send(`pong ${data}`));
  socket.on('message', (data, binary) => {
    const [command, argument, reason] = binary ? [] : data.toString().split(' ');
    if (command === 'close') socket.close(Number(argument), reason);
    else if (command === 'ping') socket.ping(argument);
    else socket.send(data, { binary });
  });
  // How it ended, as this side saw it.
  socket.on('close', (code, reason) => console.log('closed', code, reason.toString()));
});
