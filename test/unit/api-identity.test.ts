/** Reading a certificate: what stands in it, what only looks as if it did, and what it is worth at a time. */
import { createHash, createPublicKey, X509Certificate } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import { certificateId, isRevoked, readCa } from '../../agent/api/authorities.ts';
import { identifyPeer, readFacts, readUris } from '../../agent/api/identity.ts';
import { AgentError } from '../../agent/core/errors.ts';
import { address } from '../../agent/core/net.ts';
import type { CertificateId, ServerName } from '../../agent/core/words.ts';
import { identify } from '../../agent/policy/certificate-holders.ts';
import { policyOf } from '../gateway.ts';
import { createPki, derOf, type Issued } from '../pki.ts';

const pki = createPki();
afterAll(() => pki.remove());
const ca = pki.ca('mtc-ca');
/** A client CA as it is read from these PEM texts. */
const named = (pem: string | Buffer, crl?: string, name = 'mtc-ca') =>
  readCa({
    name,
    certificates: { file: `${name}.crt`, bytes: Buffer.from(pem) },
    ...(crl !== undefined && { crl: { file: `${name}.crl`, bytes: Buffer.from(crl) } }),
  });
const cas = [named(ca.certificate)];

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
    parties: () => new Map(),
  };
  const judge = (of: X509Certificate, nowMs = Date.now(), remote: string | undefined = '192.0.2.7') =>
    identifyPeer(readFacts(of, cas, remote), policy, nowMs);

  it('has the hash of its key, and its issuer by verification', () => {
    const facts = readFacts(leaf, cas);
    const spki = createPublicKey(issued.key).export({ type: 'spki', format: 'der' });
    expect(facts.spkiSha256).toBe(createHash('sha256').update(spki).digest('hex'));
    expect(facts.chains.map(({ ca: { name } }) => name)).toEqual(['mtc-ca']);
    // Same name, another key: issued by name only.
    const namesake = createPki();
    const impostor = namesake.ca('mtc-ca').certificate;
    namesake.remove();
    expect(readFacts(leaf, [named(impostor)]).chains).toEqual([]);
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
      const found = identifyPeer(readFacts(leaf, cas, remote), policy, Date.now());
      expect(found).toMatchObject({ reason: 'sourceNotAllowed' });
    }
  });
});

describe('whose certificate it is, by the rule files', () => {
  const policy = policyOf(`
servers:
  one: { certificates: [{ uri: "urn:a", issuer: mtc-ca }, { uri: "urn:b", issuer: mtc-ca }], sources: [192.0.2.0/28] }
  two: { certificates: [{ uri: "urn:c", issuer: mtc-ca }], sources: [192.0.2.16/28] }
mtcUsers:
  acme: { certificates: [{ uri: "urn:acme" }], devices: ["*@meters.example"], authorises: [one], mayAuthorise: ["*"] }
rules:
  - { id: meters, allow: { servers: [one], ports: [7000] }, limits: { durationSeconds: 60, totalSeconds: 60 } }
`);
  const judge = (issued: Issued, trusted = cas) =>
    identifyPeer(
      readFacts(new X509Certificate(issued.certificate), trusted, '192.0.2.1'),
      { identify: (facts) => identify(policy, facts), sourceAllowed: () => true, parties: () => new Map() },
      Date.now(),
    );
  it.each([
    ['two names of one server', ['URI:urn:a', 'URI:urn:b'], { role: 'server', name: 'one' }],
    ['a name that is known and one that is not', ['URI:urn:z', 'URI:urn:b'], { role: 'server', name: 'one' }],
    ['names of two servers', ['URI:urn:a', 'URI:urn:c'], { reason: 'certificateAmbiguous' }],
    ["a server's name and an MTC user's", ['URI:urn:a', 'URI:urn:acme'], { reason: 'certificateAmbiguous' }],
    ['no name', [], { reason: 'certificateUnknown' }],
    ['a name of the wrong kind', ['DNS:urn.a'], { reason: 'certificateUnknown' }],
  ])('%s', (_, san, found) => expect(judge(ca.issue({ name: 'someone', san }))).toMatchObject(found));

  it('a name that the rule files want of another CA', () => {
    const other = pki.ca('other-ca');
    const issued = other.issue({ name: 'someone', san: ['URI:urn:a'] });
    expect(judge(issued, [...cas, named(other.certificate, undefined, 'other-ca')])).toMatchObject({
      reason: 'certificateUnknown',
      why: expect.stringContaining('issuer other-ca'),
    });
  });
});

describe("a client CA's file", () => {
  const deep = [ca];
  for (const name of ['i1', 'i2', 'i3', 'i4']) deep.push((deep.at(-1) ?? ca).intermediate(name));
  const [, i1, , i3] = deep;
  const bundle = (...of: readonly (Issued | undefined)[]) => of.map((one) => one?.certificate).join('');

  it.each<[string, string | Buffer, RegExp]>([
    ['is empty', '', /client CA mtc-ca: mtc-ca\.crt: holds no CERTIFICATE in PEM$/],
    ['is something else', 'not PEM at all', /holds no CERTIFICATE in PEM$/],
    ['is DER', derOf(ca.certificate), /holds no CERTIFICATE in PEM; it looks like DER$/],
    ['is cut short', `${ca.certificate}${ca.certificate.slice(0, 200)}`, /a CERTIFICATE in it is cut short$/],
    ['is PEM around garbage', ca.certificate.replace(/MII[A-Za-z0-9+/\n]{200}/, 'AAAA'), /mtc-ca\.crt: /],
    ["holds one that is not a CA's", bundle(ca, ca.issue({ name: 'leaf' })), /CN=leaf is not a CA's certificate$/],
    ['lacks the root', bundle(i1), /no chain .* leads from CN=i1 to a root$/],
    ['has a chain too long', bundle(...deep), /no chain of at most 4 certificates .* from CN=i4 to a root$/],
  ])('that %s is a fault', (_, pem, says) => {
    const read = () => named(pem);
    expect(read).toThrow(AgentError);
    expect(read).toThrow(says);
  });

  it('may have three intermediates one below the other', () => {
    const issued = i3?.issue({ name: 'deep' });
    const facts = readFacts(new X509Certificate(issued?.certificate ?? ''), [named(bundle(...deep.slice(0, 4)))]);
    expect(facts.chains.map(({ chain }) => chain.length)).toEqual([4]);
  });
});

describe('revocation', () => {
  const root = pki.ca('root-ca');
  const below = root.intermediate('below');
  const uri = ['URI:urn:x'];
  const [direct, through, another] = [
    root.issue({ name: 'direct', san: uri }),
    below.issue({ name: 'through', san: uri }),
    below.issue({ name: 'another', san: uri }),
  ] as const;
  const [rootGood, belowGood] = [root.crl(), below.crl()];
  below.revoke(through);
  const belowRevokes = below.crl();
  root.revoke(below);
  const rootRevokes = root.crl();
  const yesterday = new Date(Date.now() - 86_400_000);
  const stale = root.crl({ thisUpdate: new Date(Date.now() - 2 * 86_400_000), nextUpdate: yesterday });
  const early = below.crl({ thisUpdate: new Date(Date.now() + 86_400_000) });

  const policy = {
    identify: () => ({ role: 'server', name: 'x' as ServerName }) as const,
    sourceAllowed: () => true,
    parties: () => new Map(),
  };
  const trusted = (crl?: string) => [named(`${root.certificate}${below.certificate}`, crl)];
  const judge = (issued: Issued, crl?: string) => {
    const facts = readFacts(new X509Certificate(issued.certificate), trusted(crl), '192.0.2.7');
    return identifyPeer(facts, policy, Date.now());
  };
  const idOf = (issued: Issued): CertificateId => {
    const [way] = readFacts(new X509Certificate(issued.certificate), trusted()).chains;
    if (!way) throw new Error('no chain');
    return certificateId(BigInt(`0x${new X509Certificate(issued.certificate).serialNumber}`).toString(16), way.chain);
  };

  it.each<[string, Issued, string | undefined, 'good' | 'certificateRevoked' | 'revocationUnknown', RegExp?]>([
    ['without a list all is good', through, undefined, 'good'],
    ['lists that do not name it', through, `${rootGood}${belowGood}`, 'good'],
    ["its issuer's list names it", through, `${rootGood}${belowRevokes}`, 'certificateRevoked', /list of CN=below/],
    ['and its neighbour is good', another, `${rootGood}${belowRevokes}`, 'good'],
    ['the intermediate is revoked', another, `${rootRevokes}${belowGood}`, 'certificateRevoked', /list of CN=root-ca/],
    ['beside it, all is good', direct, `${rootRevokes}${belowGood}`, 'good'],
    [
      'a list in the chain is missing',
      another,
      rootGood,
      'revocationUnknown',
      /mtc-ca\.crl: holds no list of CN=below/,
    ],
    ['a list that its chain does not need is missing', direct, rootGood, 'good'],
    ['a list has ended', direct, `${stale}${belowGood}`, 'revocationUnknown', /CN=root-ca is valid from .* to /],
    ['a list begins tomorrow', another, `${rootGood}${early}`, 'revocationUnknown', /CN=below is valid from/],
    ['a list that has ended still revokes', another, `${stale}${belowGood}`, 'certificateRevoked', /CN=root-ca/],
    ['a file that is no list', direct, 'nothing', 'revocationUnknown', /mtc-ca\.crl: holds no X509 CRL/],
  ])('%s', (_, issued, crl, verdict, why = /./) => {
    const judged = judge(issued, crl);
    if (verdict === 'good') expect(judged).toMatchObject({ role: 'server', certificate: idOf(issued) });
    else expect(judged).toMatchObject({ reason: verdict, why: expect.stringMatching(why) });
    expect(isRevoked(idOf(issued), trusted(crl))).toBe(verdict === 'certificateRevoked');
  });

  it("is each CA's own matter", () => {
    const two = [...trusted('nothing'), named(ca.certificate, undefined, 'without')];
    const facts = readFacts(new X509Certificate(ca.issue({ name: 'y', san: uri }).certificate), two, '192.0.2.7');
    expect(identifyPeer(facts, policy, Date.now())).toMatchObject({ role: 'server' });
    expect(isRevoked('of nobody:1' as CertificateId, two)).toBe(false);
  });

  it('of a CA that was renewed with its key: the list counts for both, and the one in date is gone by', () => {
    const old = pki.ca('renewed', { notBefore: new Date(0), notAfter: yesterday });
    const fresh = old.renew();
    const issued = old.issue({ name: 'z', san: uri });
    const listed = (crl: string) => [named(`${old.certificate}${fresh}`, crl)];
    const facts = (crl: string) => readFacts(new X509Certificate(issued.certificate), listed(crl), '192.0.2.7');
    expect(identifyPeer(facts(old.crl()), policy, Date.now())).toMatchObject({ role: 'server' });
    old.revoke(issued);
    expect(identifyPeer(facts(old.crl()), policy, Date.now())).toMatchObject({
      reason: 'certificateRevoked',
    });
  });
});
