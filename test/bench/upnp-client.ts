/**
 * A UPnP control point that asks for port mappings, as fast as it is answered.
 * Run in the device's namespace, as
 *
 *   tsx test/bench/upnp-client.ts HOST PORT CLIENT
 *
 * it takes lines of JSON: a range of external ports, all to be mapped to
 * CLIENT, or taken back. It answers `done` and how many seconds that took.
 */
import { request } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface Mapping {
  readonly action: 'AddPortMapping' | 'DeletePortMapping';
  readonly from: number;
  readonly count: number;
}

/** The daemon closes each connection after its answer; more of them at once do not make it faster. */
const CONNECTIONS = 8;
const SERVICE = 'urn:schemas-upnp-org:service:WANIPConnection:1';

function ask(host: string, port: number, action: string, fields: Record<string, string | number>): Promise<void> {
  const members = Object.entries(fields).map(([name, value]) => `<${name}>${value}</${name}>`);
  const body = `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
 s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:${action} xmlns:u="${SERVICE}">
${members.join('')}</u:${action}></s:Body></s:Envelope>`;
  const headers = {
    'content-type': 'text/xml; charset="utf-8"',
    'content-length': Buffer.byteLength(body),
    soapaction: `"${SERVICE}#${action}"`,
  };
  return new Promise((resolve, reject) => {
    const asked = request({ host, port, method: 'POST', path: '/ctl/IPConn', headers, agent: false }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
      answer.on('end', () => (answer.statusCode === 200 ? resolve() : reject(new Error(`${action}: ${text}`))));
    });
    asked.on('error', reject).end(body);
  });
}

async function run(host: string, port: number, client: string): Promise<void> {
  const tell = (line: string) => process.stdout.write(`${line}\n`);
  tell('ready');
  for await (const line of createInterface({ input: process.stdin })) {
    const { action, from, count } = JSON.parse(line) as Mapping;
    let next = from;
    const start = performance.now();
    const work = async () => {
      for (let external = next++; external < from + count; external = next++) {
        const which = { NewRemoteHost: '', NewExternalPort: external, NewProtocol: 'UDP' };
        const what = {
          NewInternalPort: external,
          NewInternalClient: client,
          NewEnabled: 1,
          NewPortMappingDescription: 'bench',
          NewLeaseDuration: 3600,
        };
        await ask(host, port, action, action === 'AddPortMapping' ? { ...which, ...what } : which);
      }
    };
    await Promise.all(Array.from({ length: CONNECTIONS }, work));
    tell(`done ${(performance.now() - start) / 1000}`);
  }
}

const [, file, host = '', port, client = ''] = process.argv;
if (file === fileURLToPath(import.meta.url)) await run(host, Number(port), client);
