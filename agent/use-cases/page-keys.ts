/**
 * The keys by which a list is read on (`Content-Last-Key`): a place in an order
 * that goes on for all servers together, sealed. Whoever holds one learns
 * nothing of how many others there are, or ask; it is good for nothing but to
 * be given back, and with the next start of the agent for nothing at all.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import type { Mark } from '../grants/live.ts';

/** A place among those that wait. */
export interface Waited {
  readonly waited: number;
}

/** One block of the cipher, whose own key makes it as good as random: place, line, and zeros that none but we can put there. */
const CIPHER = 'aes-256-ecb';
const BLOCK = 16;
const ZEROS = 5;

export class PageKeys {
  readonly #key = randomBytes(32);

  seal(place: Mark | Waited): string {
    const block = Buffer.alloc(BLOCK);
    block.writeUInt8('waited' in place ? 1 : 0, 0);
    block.writeUIntBE('waited' in place ? place.waited : place.sequence, 1, 6);
    block.writeUInt32BE('waited' in place ? 0 : place.line, 7);
    const cipher = createCipheriv(CIPHER, this.#key, null).setAutoPadding(false);
    return Buffer.concat([cipher.update(block), cipher.final()]).toString('base64url');
  }

  /** Undefined where it is none, or of another start. */
  open(key: string): Mark | Waited | undefined {
    const sealed = Buffer.from(key, 'base64url');
    if (sealed.length !== BLOCK || sealed.toString('base64url') !== key) return undefined;
    const decipher = createDecipheriv(CIPHER, this.#key, null).setAutoPadding(false);
    const block = Buffer.concat([decipher.update(sealed), decipher.final()]);
    if (block.subarray(BLOCK - ZEROS).some((byte) => byte !== 0)) return undefined;
    const place = block.readUIntBE(1, 6);
    return block[0] === 1 ? { waited: place } : { line: block.readUInt32BE(7), sequence: place };
  }
}
