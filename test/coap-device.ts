/**
 * A device that takes triggers, inside a namespace:
 *
 *   tsx test/coap-device.ts PORT ADDRESS...
 *
 * On PORT it serves CoAP by the library `coap`, and prints a line for each
 * request: `coap FROM METHOD PATH PAYLOAD`. A payload that is a code, such as
 * 4.04, is answered by that, any other by 2.04; `late` after the library's own
 * empty ACK. What comes to /echo goes back by 2.05, both by blocks where it is
 * large (RFC 7959). On PORT + 1 is another who answers nothing at first, and what
 * comes a second time by a reset: `silent FROM`, `reset FROM`. What comes
 * there as `flood` makes it hostile: it sends 20,000 datagrams of all kinds
 * to the sender, and prints `flooded`.
 */
import { createSocket } from 'node:dgram';
import { createServer } from 'coap';
import { generate, parse } from 'coap-packet';

const LATE_MS = 120; // the library sends its empty ACK after 50
const FLOOD = 20_000;
const AT_ONCE = 200;

const [portText, ...addresses] = process.argv.slice(2);
const port = Number(portText);
const tell = (...words: readonly string[]) => process.stdout.write(`${words.join(' ')}\n`);
const typeOf = (host: string) => (host.includes(':') ? 'udp6' : 'udp4');

function serveCoap(host: string): Promise<void> {
  const server = createServer({ type: typeOf(host) }, ({ rsinfo, method, url, payload }, response) => {
    const text = payload.toString();
    if (url === '/echo') {
      response.code = '2.05';
      response.end(payload);
      return;
    }
    tell('coap', `${rsinfo.address} ${rsinfo.port}`, String(method), url, text);
    response.code = /^\d\.\d\d$/.test(text) ? text : '2.04';
    setTimeout(() => response.end(), text === 'late' ? LATE_MS : 0);
  });
  return new Promise((listening) => server.listen(port, host, () => listening()));
}

function beDifficult(host: string): Promise<void> {
  const socket = createSocket(typeOf(host));
  const seen = new Set<number>();
  socket.on('message', async (datagram, { address, port: from }) => {
    const { messageId, payload } = parse(datagram);
    const send = (bytes: Buffer) => new Promise<void>((sent) => socket.send(bytes, from, address, () => sent()));
    if (payload.toString() === 'flood') {
      const junk = [
        generate({ code: '0.00', ack: true, messageId: messageId ^ 1 }),
        generate({ code: 'GET', confirmable: true, messageId, token: Buffer.alloc(8) }),
        generate({ code: '2.05', confirmable: true, messageId, token: Buffer.alloc(8), payload: Buffer.alloc(900) }),
        Buffer.alloc(1_200, 0x61),
        Buffer.alloc(0),
      ];
      for (let i = 0; i < FLOOD; i += AT_ONCE)
        await Promise.all(Array.from({ length: AT_ONCE }, (_, j) => send(junk[(i + j) % junk.length] as Buffer)));
      tell('flooded');
      return;
    }
    if (!seen.has(messageId)) {
      seen.add(messageId);
      tell('silent', `${address} ${from}`);
      return;
    }
    tell('reset', `${address} ${from}`);
    await send(generate({ code: '0.00', reset: true, messageId }));
  });
  return new Promise((bound) => socket.bind(port + 1, host, bound));
}

await Promise.all(addresses.flatMap((host) => [serveCoap(host), beDifficult(host)]));
tell('ready');
