/** Blocks of a PEM text (RFC 7468). What is written between blocks is for people and skipped; half a block is not. */

/** The blocks of one kind. @throws Error where there is none, or one is cut short */
export function blocksOf(bytes: Buffer, label: 'CERTIFICATE' | 'X509 CRL'): string[] {
  const text = bytes.toString('latin1');
  const begun = text.split(`-----BEGIN ${label}-----`).length - 1;
  const whole = text.match(new RegExp(`-----BEGIN ${label}-----[^-]+-----END ${label}-----`, 'g')) ?? [];
  if (begun === 0) throw new Error(`holds no ${label} in PEM${isDer(bytes) ? '; it looks like DER' : ''}`);
  if (whole.length < begun) throw new Error(`a ${label} in it is cut short`);
  return whole;
}

/** Whether it begins as DER does: with a SEQUENCE. No PEM text begins with a 0. */
export function isDer(bytes: Buffer): boolean {
  return bytes[0] === 0x30;
}
