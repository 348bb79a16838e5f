/** Reading a certificate: what stands in it, what only looks as if it did, and what it is worth at a time. */
import { createHash, createPublicKey, X509Certificate } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import { identifyServer, readFacts, readUris } from '../../agent/api/identity.ts';
import { address } from '../../agent/core/net.ts';
import type { ServerName } from '../../agent/core/words.ts';
import { createPki } from '../pki.ts';

const pki = createPki();
afterAll(() => pki.remove());
const ca = pki.ca('mtc-ca');
const cas = [{ name: 'mtc-ca', certificates: [new X509Certificate(ca.certificate)] }];

describe('the URIs of a subjectAltName', () => {
  it.each([
    [undefined, []],
    ['', []],
    ['DNS:a.example', []],
    ['URI:urn:a', ['urn:a']],
    ['DNS:a.example, URI:urn:a, IP Address:192.0.2.1, URI:urn:b', ['urn:a', 'urn:b']],
    ['URI:"urn:a\\u002c URI:urn:evil"', ['urn:a, URI:urn:evil']],
    ['DNS:"x\\u002c URI:urn:evil"', []],
    ['DNS:"x, URI:urn:evil"', []],
    ['URI:', ['']],
  ])('%s', (text, uris) => expect(readUris(text)).toEqual(uris));

  it.each([
    'URI:urn:a,URI:urn:b',
    'URI:urn:a, ',
    ', URI:urn:a',
    'nothing',
    'URI:"urn:a',
    'URI:"urn:a"b',
    'URI:a"b',
    'URI:"\\x"',
    'URI:urn:a,, URI:urn:b',
  ])('unreadable: %s', (text) => expect(readUris(text)).toBe('unreadable'));

  it.each([
    ['URI:urn:x, URI:urn:mtc:acme', ['urn:x, URI:urn:mtc:acme']],
    ['DNS:x, URI:urn:mtc:acme', []],
    ['DNS:x", URI:urn:mtc:acme', []],
    ['email:x, URI:urn:mtc:acme@acme.example', []],
    ["URI:urn:x'y", ["urn:x'y"]],
  ])('in a certificate: %s', (entry, uris) => {
    const issued = ca.issue({ name: 'injected', san: [entry] });
    expect(readFacts(new X509Certificate(issued.certificate), cas).uris).toEqual(uris);
  });
});

describe('a certificate', () => {
  const issued = ca.issue({ name: 'acme', san: ['URI:urn:mtc:acme'] });
  const leaf = new X509Certificate(issued.certificate);
  const policy = {
    identify: () => ({ role: 'server' as const, name: 'acme' as ServerName }),
    sourceAllowed: () => true,
  };
  const judge = (of: X509Certificate, nowMs = Date.now(), remote: string | undefined = '192.0.2.7', named = cas) =>
    identifyServer(readFacts(of, named), remote, policy, nowMs);

  it('has the hash of its key, and its issuer by verification', () => {
    const facts = readFacts(leaf, cas);
    const spki = createPublicKey(issued.key).export({ type: 'spki', format: 'der' });
    expect(facts.spkiSha256).toBe(createHash('sha256').update(spki).digest('hex'));
    expect(facts.issuers.map(({ name }) => name)).toEqual(['mtc-ca']);
    // Same name, another key: issued by name only.
    const namesake = createPki();
    const impostor = new X509Certificate(namesake.ca('mtc-ca').certificate);
    namesake.remove();
    expect(readFacts(leaf, [{ name: 'impostor', certificates: [impostor] }]).issuers).toEqual([]);
  });

  it('is worth something from its first to its last second', () => {
    const [from, to] = [Date.parse(leaf.validFrom), Date.parse(leaf.validTo)];
    for (const at of [from, to]) expect(judge(leaf, at)).toMatchObject({ role: 'server', name: 'acme' });
    for (const at of [from - 1, to + 1]) expect(judge(leaf, at)).toMatchObject({ reason: 'certificateExpired' });
  });

  it('is worth nothing when its issuer has expired', () => {
    const lasting = ca.issue({ name: 'lasting', san: ['URI:urn:x'], notAfter: new Date(Date.now() + 90 * 86_400_000) });
    expect(judge(new X509Certificate(lasting.certificate), Date.now() + 60 * 86_400_000)).toMatchObject({
      reason: 'certificateExpired',
      why: expect.stringContaining('client CA mtc-ca'),
    });
  });

  it("of a CA is nobody's", () => {
    expect(judge(new X509Certificate(ca.certificate))).toMatchObject({ reason: 'certificateWrongUse' });
  });

  it('shows where the request comes from, IPv4 in mapped form as IPv4', () => {
    expect(judge(leaf, Date.now(), '::ffff:192.0.2.7')).toMatchObject({ requestAddress: address('192.0.2.7') });
    for (const remote of [undefined, 'fe80::1%eth0', '']) {
      const found = identifyServer(readFacts(leaf, cas), remote, policy, Date.now());
      expect(found).toMatchObject({ reason: 'sourceNotAllowed' });
    }
  });
});
