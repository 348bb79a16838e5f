/** The payload of a trigger as requests carry it: base64, all of it or nothing. */

/** Node takes whatever it can of what is no base64; here all of it must be (RFC 4648 4, and the alphabet of 5). */
export function readPayload(text: string): Uint8Array | undefined {
  if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(text) || text.replace(/=+$/, '').length % 4 === 1) return undefined;
  return Uint8Array.from(Buffer.from(text, 'base64'));
}
