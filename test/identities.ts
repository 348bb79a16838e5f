/** What stands for IMSI and MSISDN in tests: real hashes, by a key that is always the same. */
import { createHash } from 'node:crypto';
import { identitiesBy } from '../agent/files/identity-key.ts';

export const keyOf = (name: string) => createHash('sha256').update(name).digest();

export const IDENTITIES = identitiesBy({ key: keyOf('tests'), keep: false });
