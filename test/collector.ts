/**
 * A syslog collector, run inside a namespace as
 *
 *   tsx test/collector.ts udp|tcp ADDRESS PORT
 *
 * It prints `ready`, then each message as a line: over UDP a datagram each
 * (RFC 5426), over TCP by its length (RFC 6587 3.4.1); what breaks the framing
 * ends it with an error.
 */
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

const [transport, host = '', port] = process.argv.slice(2);
const tell = (line: string) => process.stdout.write(`${line}\n`);

if (transport === 'udp') {
  const socket = createSocket('udp4');
  socket.on('message', (data) => tell(data.toString()));
  socket.bind(Number(port), host, () => tell('ready'));
} else {
  const server = createServer((socket) => {
    let text = '';
    socket.setEncoding('utf8').on('data', (data: string) => {
      text += data;
      for (let found = /^(\d+) /.exec(text); found; found = /^(\d+) /.exec(text)) {
        const from = found[0].length;
        if (text.length < from + Number(found[1])) break;
        tell(text.slice(from, from + Number(found[1])));
        text = text.slice(from + Number(found[1]));
      }
      if (text !== '' && !/^\d{1,6}( .*)?$/s.test(text)) throw new Error(`no frame: ${text.slice(0, 80)}`);
    });
    socket.on('error', () => {});
  });
  server.listen(Number(port), host, () => tell('ready'));
}
