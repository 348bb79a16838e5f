/** What is sent, held against packages of others: CloudEvents 1.0, HTTP Message Signatures (RFC 9421), digests (RFC 9530). */
import { createHash, createPublicKey, generateKeyPairSync, verify } from 'node:crypto';
import { type CloudEvent, HTTP } from 'cloudevents';
import { httpbis } from 'http-message-signatures';
import { describe, expect, test } from 'vitest';
import { envelopeOf } from '../../agent/reports/cloud-event.ts';
import { type QueuedEvent, sinkId } from '../../agent/reports/outbox.ts';
import { readSigningKey, signedHeaders } from '../../agent/reports/signature.ts';

const { privateKey, publicKey } = generateKeyPairSync('ed25519');
const key = readSigningKey(Buffer.from(privateKey.export({ type: 'pkcs8', format: 'pem' })));
const NOW_MS = Date.UTC(2026, 0, 1);
const EVENT: QueuedEvent = {
  sink: sinkId('mtcUser', 'acme', 'siem'),
  number: 42,
  id: '01J0000000000000000000000A',
  type: 'mtgate.report.v1',
  subject: 'acme',
  madeMs: NOW_MS,
  data: '{"reports":[{"source":"192.0.2.66"}]}',
};

describe('a CloudEvent', () => {
  test('is one to the package that knows the specification', () => {
    const { contentType, body } = envelopeOf(EVENT, 'gw-1', 3);
    const read = HTTP.toEvent({ headers: { 'content-type': contentType }, body }) as CloudEvent<unknown>;
    expect(read.validate()).toBe(true);
    expect(read.toJSON()).toEqual({
      specversion: '1.0',
      id: EVENT.id,
      source: 'urn:mtgate:gateway:gw-1',
      type: 'mtgate.report.v1',
      subject: 'acme',
      time: '2026-01-01T00:00:00.000Z',
      datacontenttype: 'application/json',
      sequence: '0000000000000042',
      givenup: 3,
      data: { reports: [{ source: '192.0.2.66' }] },
    });
  });

  test('says nothing of a gap where there is none', () => {
    expect(JSON.parse(envelopeOf(EVENT, 'gw-1', 0).body)).not.toHaveProperty('givenup');
  });

  test('is none where the event has no type: then its data goes as it is', () => {
    const { type: _, ...bare } = EVENT;
    expect(envelopeOf(bare, 'gw-1', 3)).toEqual({ contentType: 'application/json', body: EVENT.data });
  });
});

describe('a signature', () => {
  const message = {
    url: 'https://sink.acme.example/mtgate?tenant=7',
    contentType: 'application/cloudevents+json',
    body: Buffer.from('{"id":"ä"}'),
  };
  const headers = signedHeaders(key, message, NOW_MS);
  const verified = (changes: { url?: string; headers?: Readonly<Record<string, string>> } = {}) =>
    httpbis.verifyMessage(
      {
        keyLookup: async ({ keyid }) =>
          keyid === key.jwk.kid
            ? { algs: ['ed25519'], verify: async (data, signature) => verify(null, data, publicKey, signature) }
            : null,
        requiredFields: ['@method', '@target-uri', 'content-type', 'content-digest'],
        requiredParams: ['created', 'keyid', 'alg'],
        tolerance: 1e12,
      },
      { method: 'POST', url: message.url, headers, ...changes },
    );

  test('verifies', async () => expect(await verified()).toBe(true));

  test('is of this target, type and digest', async () => {
    expect(await verified({ url: 'https://sink.acme.example/other' })).toBe(false);
    expect(await verified({ headers: { ...headers, 'content-type': 'application/json' } })).toBe(false);
    expect(await verified({ headers: { ...headers, 'content-digest': 'sha-256=:AA==:' } })).toBe(false);
  });

  test('covers the body by its digest', () => {
    const digest = createHash('sha256').update(message.body).digest('base64');
    expect(headers['content-digest']).toBe(`sha-256=:${digest}:`);
  });

  test('bears the thumbprint of the key that is served', () => {
    expect(headers['signature-input']).toContain(`created=${NOW_MS / 1000};keyid="${key.jwk.kid}";alg="ed25519"`);
    const { kid, alg, use, ...rest } = key.jwk;
    expect({ alg, use }).toEqual({ alg: 'EdDSA', use: 'sig' });
    const served = createPublicKey({ key: { ...rest }, format: 'jwk' });
    expect(served.equals(publicKey)).toBe(true);
    const canonical = JSON.stringify({ crv: rest.crv, kty: rest.kty, x: rest.x });
    expect(kid).toBe(createHash('sha256').update(canonical).digest('base64url'));
  });
});

test('a key that is not Ed25519 is none', () => {
  const { privateKey: rsa } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  expect(() => readSigningKey(Buffer.from(rsa.export({ type: 'pkcs8', format: 'pem' })))).toThrow('expected ed25519');
  expect(() => readSigningKey(Buffer.from('no key'))).toThrow();
});
