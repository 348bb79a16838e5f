/**
 * The least that a grant could cost: a server that demands a client
 * certificate as the API does, reads JSON, and answers it. It decides nothing,
 * checks nothing and keeps nothing. Run in the gateway's namespace, as
 *
 *   tsx test/bench/echo.ts ADDRESS PORT CA CERTIFICATE KEY
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { fileURLToPath } from 'node:url';
import { readTrust } from '../../agent/api/tls.ts';
import { program } from '../child.ts';

/** Files in PEM: whom it trusts, and who it is. */
export interface EchoFiles {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
}

/** The command that runs it. */
export function echoAt(address: string, port: number, { ca, certificate, key }: EchoFiles): string[] {
  return program('test/bench/echo.ts', address, String(port), ca, certificate, key);
}

function serve(address: string, port: number, files: readonly string[]): void {
  const [certificates, certificate, key] = files.map((file) => ({ file, bytes: readFileSync(file) }));
  if (!certificates || !certificate || !key) throw new Error('name a CA, a certificate and a key');
  const clientCas = [{ name: 'mtc-ca', certificates }];
  const { context } = readTrust({ certificate, key, clientCas, minimumVersion: 'TLSv1.3' });
  const server = createServer({ ...context, requestCert: true, rejectUnauthorized: true }, (request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = JSON.stringify(JSON.parse(Buffer.concat(chunks).toString()));
      response.writeHead(201, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
      response.end(body);
    });
  });
  server.listen(port, address);
}

const [, file, address = '', port, ...files] = process.argv;
if (file === fileURLToPath(import.meta.url)) serve(address, Number(port), files);
