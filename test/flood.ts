/**
 * Peers that want too much of the API, from inside a namespace:
 *
 *   tsx test/flood.ts connections HOST PORT COUNT SOURCE…
 *   tsx test/flood.ts handshakes HOST PORT AT-ONCE CERTIFICATE KEY SOURCE…
 *   tsx test/flood.ts requests HOST PORT CONNECTIONS CERTIFICATE KEY SOURCE…
 *
 * `connections` keeps COUNT open or opening, of which half say nothing and half
 * stall in their handshake. `handshakes` makes one after the other; without a
 * certificate (`-`) they fail at their end. `requests` asks for one grant again
 * and again, eight at once on each connection, and reads the answers. Whatever
 * is closed is opened again. It prints `ready`, then each second what it saw so
 * far, as JSON. An MTC server with 128 connections or a botnet looks the same.
 */
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import tls from 'node:tls';

const PIPELINED = 8;
/** Never more than the kernel queues for the server at once: what it drops comes again only a second later. */
const CONNECTING_MOST = 256;

const [mode, host = '', port, count, ...rest] = process.argv.slice(2);
const [certificate = '-', key = '-'] = mode === 'connections' ? [] : rest.splice(0, 2);
const own = certificate === '-' ? {} : { cert: readFileSync(certificate), key: readFileSync(key) };

/** What has been seen. */
const seen: Record<string, number> = {};
function see(what: string): void {
  seen[what] = (seen[what] ?? 0) + 1;
}

let source = 0;
function ends() {
  source += 1;
  return { host, port: Number(port), localAddress: rest[source % rest.length] as string };
}

/** Keeps so many going; one that is over is begun again. */
function keep(atOnce: number, connectingMost: number, begin: (connected: () => void, over: () => void) => void): void {
  let [going, connecting, waits] = [0, 0, false];
  const more = () => {
    waits = false;
    while (going < atOnce && connecting < connectingMost) {
      going += 1;
      connecting += 1;
      let connects = true;
      const connected = () => {
        if (connects) connecting -= 1;
        connects = false;
        soon();
      };
      begin(connected, () => {
        going -= 1;
        connected();
      });
    }
  };
  const soon = () => {
    if (!waits) setImmediate(more);
    waits = true;
  };
  more();
}

function watch(socket: Socket, connected: () => void, over: () => void): void {
  see('tried');
  socket.on('error', () => {});
  socket.once('close', () => {
    see('closed');
    over();
  });
  socket.once('connect', connected);
  socket.resume();
}

function holdConnection(connected: () => void, over: () => void): void {
  const socket = connect(ends());
  watch(socket, connected, over);
  source % 2 === 0 && socket.once('connect', () => socket.write(Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00, 0x01])));
}

function shakeHands(connected: () => void, over: () => void): void {
  const socket = tls.connect({ ...ends(), ...own, rejectUnauthorized: false });
  watch(socket, connected, over);
  socket.once('secureConnect', () => {
    see('handshakes');
    setTimeout(() => socket.destroy(), 5); // time to hear whether the certificate was taken
  });
}

const BODY = JSON.stringify({
  device: { networkAccessIdentifier: 'm1@meters.example' },
  protocol: 'UDP',
  devicePort: 7000,
  durationSeconds: 60,
});
const REQUEST = [
  'POST /mobile-terminated-access/v1/grants HTTP/1.1',
  'Host: gateway.example',
  'Content-Type: application/json',
  `Content-Length: ${BODY.length}`,
  '',
  BODY,
].join('\r\n');

function askOn(connected: () => void, over: () => void): void {
  const socket = tls.connect({ ...ends(), ...own, rejectUnauthorized: false });
  watch(socket, connected, over);
  socket.setEncoding('latin1');
  socket.once('secureConnect', () => socket.write(REQUEST.repeat(PIPELINED)));
  let text = '';
  socket.on('data', (more) => {
    text += more;
    // Up to the last answer of which all lines of the header are here.
    const whole = text.lastIndexOf('\r\n\r\n');
    if (whole < 0) return;
    const heads = text.slice(0, whole);
    text = text.slice(whole);
    const statuses = Array.from(heads.matchAll(/HTTP\/1\.1 (\d{3}) /g), ([, status]) => status as string);
    for (const status of statuses) see(status);
    for (const _ of heads.matchAll(/retry-after: \d/gi)) see('retryAfter');
    if (statuses.length > 0) socket.write(REQUEST.repeat(statuses.length));
  });
}

const MODES: Record<string, () => void> = {
  connections: () => keep(Number(count), CONNECTING_MOST, holdConnection),
  handshakes: () => keep(Number(count), Number(count), shakeHands),
  requests: () => keep(Number(count), 16, askOn),
};
MODES[mode ?? '']?.();
process.stdout.write('ready\n');
setInterval(() => process.stdout.write(`${JSON.stringify(seen)}\n`), 250);
