/**
 * The key by which IMSI and MSISDN are hashed (core/identities.ts): 32 random
 * bytes, in hex, of this gateway alone. A gateway that is given none makes one
 * at its first start, beside its databases; who copies both can try all
 * numbers, so where a copy of the databases may go elsewhere the key is better
 * given as a credential.
 *
 * What is hashed is nobody's without it, and with another one: a start finds
 * that out (registry-store.ts), and nothing is ever found by a wrong hash.
 */
import { createHmac, randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { Identities } from '../core/identities.ts';

export interface IdentityKey {
  readonly key: Uint8Array;
  /** Whether they are also kept as they are. */
  readonly keep: boolean;
}

export function identitiesBy({ key, keep }: IdentityKey): Identities {
  return new Identities((text) => createHmac('sha256', key).update(text).digest(), keep);
}

/** @throws AgentError identityKeyInvalid */
export function readIdentityKey(text: string, file: string): Uint8Array {
  const hex = text.trim();
  if (/^[\da-f]{64}$/i.test(hex)) return Buffer.from(hex, 'hex');
  throw new AgentError('identityKeyInvalid', `${file} is no key of 32 bytes in hex`);
}

/** Makes one; on the disk before anything is hashed by it. @throws AgentError identityKeyInvalid */
export function makeIdentityKey(file: string): void {
  try {
    const made = openSync(file, 'wx', 0o600);
    writeSync(made, `${randomBytes(32).toString('hex')}\n`);
    fsyncSync(made);
    closeSync(made);
    const folder = openSync(dirname(file), 'r');
    fsyncSync(folder);
    closeSync(folder);
  } catch (cause) {
    throw new AgentError('identityKeyInvalid', `${file} cannot be made: ${(cause as Error).message}`, { cause });
  }
}
