/** Revocation lists as CAs publish them, and what must not be taken for one. */
import { sign, X509Certificate } from 'node:crypto';
import { AsnConvert } from '@peculiar/asn1-schema';
import { CertificateList, Extension } from '@peculiar/asn1-x509';
import { afterAll, describe, expect, it } from 'vitest';
import { readCrls, serialOf } from '../../agent/api/crl.ts';
import { createPki, derOf, type TestCa } from '../pki.ts';

const pki = createPki();
afterAll(() => pki.remove());
const ca = pki.ca('mtc-ca');
const below = ca.intermediate('below');
const other = pki.ca('other-ca');
const [root, intermediate] = [ca, below].map(({ certificate }) => new X509Certificate(certificate)) as [
  X509Certificate,
  X509Certificate,
];
const gone = ca.issue({ name: 'gone' });
const stays = ca.issue({ name: 'stays' });
ca.revoke(gone);
const good = ca.crl();
const serial = ({ certificate }: { certificate: string }) => serialOf(new X509Certificate(certificate));

/** The list with a change, signed anew: what openssl does not write. */
function resigned(pem: string, by: TestCa, change: (list: CertificateList['tbsCertList']) => void): Buffer {
  const list = AsnConvert.parse(derOf(pem), CertificateList);
  delete list.tbsCertListRaw;
  change(list.tbsCertList);
  list.signature = new Uint8Array(sign('sha256', Buffer.from(AsnConvert.serialize(list.tbsCertList)), by.key)).buffer;
  return Buffer.from(AsnConvert.serialize(list));
}

describe('a list', () => {
  it.each([
    ['in PEM', Buffer.from(good)],
    ['in DER', derOf(good)],
    ['with text around it', Buffer.from(`published by mtc-ca\n${good}thank you\n`)],
  ])('%s names what is revoked, and its dates', (_, bytes) => {
    const crl = readCrls(bytes, [root, intermediate]).get(root);
    expect(crl?.revoked).toEqual(new Set([serial(gone)]));
    expect(crl?.revoked.has(serial(stays))).toBe(false);
    expect((crl?.nextUpdateMs ?? 0) - (crl?.thisUpdateMs ?? 0)).toBe(30 * 86_400_000);
  });

  it('that revokes nothing is a list', () => {
    expect(readCrls(Buffer.from(below.crl()), [root, intermediate]).get(intermediate)?.revoked).toEqual(new Set());
  });

  it('stands with others in one file, each for its own', () => {
    const crls = readCrls(Buffer.from(`${good}${below.crl()}`), [root, intermediate]);
    expect([...crls.keys()]).toEqual(expect.arrayContaining([root, intermediate]));
    expect(crls.size).toBe(2);
  });

  it('counts for every certificate of the name and key that signed it', () => {
    expect(readCrls(Buffer.from(good), [root, new X509Certificate(ca.certificate)]).size).toBe(2);
  });

  it('may have serial numbers that are long, or below zero', () => {
    const bytes = resigned(good, ca, ({ revokedCertificates: [first] = [] }) => {
      if (first) first.userCertificate = new Uint8Array([0xff, 0x01]).buffer;
    });
    expect(readCrls(bytes, [root]).get(root)?.revoked).toEqual(new Set(['-ff']));
    expect(serialOf({ serialNumber: '-FF' } as X509Certificate)).toBe('-ff');
    expect(serialOf({ serialNumber: '00FF' } as X509Certificate)).toBe('ff');
  });
});

describe('unusable is', () => {
  const critical = new Extension({ extnID: '2.5.29.29', critical: true });
  const namesake = createPki();
  const forged = namesake.ca('mtc-ca').crl();
  namesake.remove();
  const unfit = pki.ca('unfit', { keyUsage: 'keyCertSign' });
  it.each<[string, string | Buffer, RegExp, string?]>([
    ['an empty file', '', /^is empty$/],
    ['a file of something else', 'mtc-ca: all well\n', /^holds no X509 CRL in PEM$/],
    ['a certificate', ca.certificate, /^holds no X509 CRL in PEM$/],
    ['a certificate in DER', derOf(ca.certificate), /is no CRL|names two|is not taken/],
    ['half a list', good.slice(0, 300), /^a X509 CRL in it is cut short$/],
    ['half a list in DER', derOf(good).subarray(0, 150), /^is cut short$/],
    ['a list with something behind it', Buffer.concat([derOf(good), Buffer.from([5, 0])]), /not one SEQUENCE/],
    ["another CA's list", other.crl(), /is of another CA/],
    ["its own list with another CA's", `${good}${other.crl()}`, /is of another CA/],
    ['two lists of one certificate', `${good}${good}`, /holds two lists of CN=mtc-ca/],
    ["a namesake's list", forged, /signature that CN=mtc-ca has not made/],
    ['a list signed with SHA-1', ca.crl({ digest: 'sha1' }), /signed with 1\.2\.840\.10045\.4\.1, which is not taken/],
    ['a list by who may sign none', unfit.crl(), /CN=unfit, whose key usage does not allow it/],
    ['a delta', ca.crl({ extension: '2.5.29.27 = critical, DER:020101' }), /is a delta CRL/],
    ['a part', ca.crl({ extension: '2.5.29.28 = critical, DER:30038101FF' }), /critical extension 2\.5\.29\.28/],
    ['a list without an end', resigned(good, ca, (list) => delete list.nextUpdate), /when the next one is due/],
    [
      'a list that speaks of other CAs',
      resigned(good, ca, ({ revokedCertificates: [first] = [] }) => {
        if (first) first.crlEntryExtensions = [critical];
      }),
      /an entry with a critical extension/,
    ],
  ])('%s', (_, file, says) => {
    const cas = [root, intermediate, new X509Certificate(unfit.certificate)];
    expect(() => readCrls(Buffer.from(file), cas)).toThrow(says);
  });

  it('any list in which one octet is another, or of which the end is missing', () => {
    const der = derOf(good);
    for (const at of der.keys()) {
      const changed = Buffer.from(der);
      changed.writeUInt8((der[at] ?? 0) ^ 0x01, at);
      expect(() => readCrls(changed, [root]), `octet ${at}`).toThrow();
      expect(() => readCrls(der.subarray(0, at), [root]), `length ${at}`).toThrow();
    }
  });

  it('no list with an extension that need not be understood', () => {
    expect(readCrls(Buffer.from(ca.crl({ extension: '1.2.3.4 = DER:0500' })), [root]).size).toBe(1);
  });
});
