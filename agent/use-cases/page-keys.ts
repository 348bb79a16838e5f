/**
 * The keys by which a list is read on (`Content-Last-Key`): a place in an order
 * that goes on for all servers together, or among the devices of all MTC users,
 * sealed. Whoever holds one learns nothing of how many others there are, or
 * ask, or what theirs are called; it is good for nothing but to be given back,
 * and with the next start of the agent for nothing at all.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import type { MtcUserName } from '../core/words.ts';
import type { Place } from '../directory/owned-devices.ts';
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

/** The same of a list of devices: a place is a name there, as long as names are. */
const NAMED_CIPHER = 'aes-256-gcm';
const NONCE = 12;
const TAG = 16;
/** No external identifier is longer (core/words.ts); every place is made as long, so that no key tells how long a name is. */
const NAME_MOST = 318;

export class DevicePageKeys {
  readonly #key = randomBytes(32);

  /** Good for this MTC user alone. */
  seal(mtcUser: MtcUserName, { domain, device }: Place): string {
    const nonce = randomBytes(NONCE);
    const cipher = createCipheriv(NAMED_CIPHER, this.#key, nonce).setAAD(Buffer.from(mtcUser));
    const text = (device === '' ? `@${domain}` : device).padEnd(NAME_MOST);
    return Buffer.concat([nonce, cipher.update(text), cipher.final(), cipher.getAuthTag()]).toString('base64url');
  }

  /** Undefined where it is none, another MTC user's, or of another start. */
  open(mtcUser: MtcUserName, key: string): Place | undefined {
    const sealed = Buffer.from(key, 'base64url');
    if (sealed.length !== NONCE + NAME_MOST + TAG || sealed.toString('base64url') !== key) return undefined;
    const decipher = createDecipheriv(NAMED_CIPHER, this.#key, sealed.subarray(0, NONCE), { authTagLength: TAG })
      .setAAD(Buffer.from(mtcUser))
      .setAuthTag(sealed.subarray(-TAG));
    try {
      const text = Buffer.concat([decipher.update(sealed.subarray(NONCE, -TAG)), decipher.final()])
        .toString()
        .trimEnd();
      const at = text.indexOf('@');
      return { domain: text.slice(at + 1), device: at === 0 ? '' : text };
    } catch {
      return undefined; // its tag is not of this key and MTC user
    }
  }
}
