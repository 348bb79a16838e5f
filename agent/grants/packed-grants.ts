/**
 * Records of live grants, packed into slots and read from them: what is a
 * grant's own lies in its slot, and of what many share the slot has the number
 * in a table, where each value stands once for as long as a grant has it.
 */
import type { DeviceReference, ExternalId, GrantId, InnerAddress, MtcUserName, ServerName } from '../core/words.ts';
import { hashNumbers, hashText } from './hash-index.ts';
import { Interned, TEXTS } from './interned.ts';
import { type GrantRecord, sameLimits } from './record.ts';
import { LONG, Slots, WORD } from './slots.ts';

/** What many grants have in common. */
type Terms = Pick<
  GrantRecord,
  | 'gateway'
  | 'server'
  | 'certificate'
  | 'mtcUser'
  | 'rule'
  | 'policyVersion'
  | 'bootId'
  | 'state'
  | 'family'
  | 'protocol'
  | 'remote'
  | 'limits'
>;

const remoteText = ({ remote }: Terms) => (remote === 'all' ? remote : remote.text);
/** As many letters of a name made by others, or of a hash, as tell it from the next. */
const TELLING = 8;
const terms = {
  hash: (of: Terms) =>
    hashNumbers(
      hashText(of.server, TELLING),
      hashText(of.certificate, TELLING),
      hashText(of.policyVersion, TELLING),
      hashText(remoteText(of), TELLING),
      hashText(of.rule, TELLING),
      hashText(of.protocol),
    ),
  same: (a: Terms, b: Terms) =>
    a.server === b.server &&
    a.rule === b.rule &&
    a.certificate === b.certificate &&
    a.protocol === b.protocol &&
    a.policyVersion === b.policyVersion &&
    remoteText(a) === remoteText(b) &&
    a.mtcUser === b.mtcUser &&
    a.family === b.family &&
    a.bootId === b.bootId &&
    a.state === b.state &&
    a.gateway === b.gateway &&
    sameLimits(a.limits, b.limits),
  keep: (of: Terms): Terms => ({
    gateway: of.gateway,
    server: of.server,
    certificate: of.certificate,
    mtcUser: of.mtcUser,
    rule: of.rule,
    policyVersion: of.policyVersion,
    bootId: of.bootId,
    state: of.state,
    family: of.family,
    protocol: of.protocol,
    remote: of.remote,
    limits: of.limits,
  }),
};
const inner = {
  hash: ({ realm, address }: InnerAddress) => hashNumbers(hashText(realm), hashText(address.text)),
  same: (a: InnerAddress, b: InnerAddress) => a.address.text === b.address.text && a.realm === b.realm,
};
const referenceText = (of: DeviceReference) =>
  'networkAccessIdentifier' in of ? of.networkAccessIdentifier : 'phoneNumber' in of ? of.phoneNumber : of.msisdnHash;
const reference = {
  hash: (of: DeviceReference) => hashText(referenceText(of)),
  same: (a: DeviceReference, b: DeviceReference) =>
    'phoneNumber' in a === 'phoneNumber' in b && referenceText(a) === referenceText(b), // a hash has no @
};
/** A server and a device, by their numbers, in one. */
const pairOf = (server: number, device: number) => server * 2 ** 32 + device;
const pair = {
  hash: (of: number) => hashNumbers((of % 2 ** 32) | 0, (of / 2 ** 32) | 0),
  same: (a: number, b: number) => a === b,
};

/** Fields whose values stand in tables. */
const SHARED = ['terms', 'server', 'device', 'pair', 'inner', 'reference', 'mtcUser'] as const;

export class PackedGrants {
  readonly slots = new Slots();
  readonly servers = new Interned<ServerName>(TEXTS);
  readonly mtcUsers = new Interned<MtcUserName>(TEXTS);
  readonly pairs = new Interned(pair);
  readonly inners = new Interned(inner);
  readonly #terms = new Interned(terms);
  readonly #devices = new Interned<ExternalId>(TEXTS);
  readonly #references = new Interned(reference);

  termsOf(slot: number): Terms {
    return this.#terms.at(this.slots.word(slot, WORD.terms));
  }

  /** The number of a server and a device together; -1 where no grant is of both. */
  pairOf(server: ServerName, device: ExternalId): number {
    const [serverNumber, deviceNumber] = [this.servers.find(server), this.#devices.find(device)];
    return serverNumber < 0 || deviceNumber < 0 ? -1 : this.pairs.find(pairOf(serverNumber, deviceNumber));
  }

  /** The numbers of what it shares with others, for `release`. */
  shares(slot: number): number[] {
    return SHARED.map((field) => this.slots.word(slot, WORD[field]));
  }

  release(shares: readonly number[]): void {
    const tables = [this.#terms, this.servers, this.#devices, this.pairs, this.inners, this.#references, this.mtcUsers];
    for (const [i, number] of shares.entries()) tables[i]?.release(number);
  }

  write(slot: number, record: GrantRecord): void {
    const { slots } = this;
    const server = this.servers.use(record.server);
    const device = this.#devices.use(record.device);
    slots.setWord(slot, WORD.terms, this.#terms.use(record));
    slots.setWord(slot, WORD.server, server);
    slots.setWord(slot, WORD.device, device);
    slots.setWord(slot, WORD.pair, this.pairs.use(pairOf(server, device)));
    slots.setWord(slot, WORD.inner, this.inners.use(record.inner));
    slots.setWord(slot, WORD.reference, this.#references.use(record.reference));
    slots.setWord(slot, WORD.mtcUser, this.mtcUsers.use(record.mtcUser));
    slots.setText(slot, 'id', record.id);
    slots.setText(slot, 'correlator', record.correlator);
    slots.setAddress(slot, record.external.address);
    slots.setWord(slot, WORD.externalPort, record.external.port);
    slots.setWord(slot, WORD.devicePort, record.devicePort);
    slots.setWord(slot, WORD.remotePort, record.remotePort);
    slots.setWord(slot, WORD.grantedSeconds, record.grantedSeconds);
    slots.setWord(slot, WORD.index, record.index);
    slots.setDouble(slot, LONG.number, record.number);
    slots.setDouble(slot, LONG.startedAtMs, record.startedAtMs);
    slots.setDouble(slot, LONG.expiresAtMs, record.expiresAtMs);
    slots.setLong(slot, LONG.expiresAtNs, record.expiresAtNs);
  }

  record(slot: number): GrantRecord {
    const { slots } = this;
    const terms = this.termsOf(slot);
    // Written out, and not spread: a tenth of the time.
    return {
      gateway: terms.gateway,
      server: terms.server,
      certificate: terms.certificate,
      mtcUser: terms.mtcUser,
      rule: terms.rule,
      policyVersion: terms.policyVersion,
      bootId: terms.bootId,
      state: terms.state,
      family: terms.family,
      protocol: terms.protocol,
      remote: terms.remote,
      limits: terms.limits,
      id: slots.text(slot, 'id') as GrantId,
      number: slots.double(slot, LONG.number),
      device: this.#devices.at(slots.word(slot, WORD.device)),
      reference: this.#references.at(slots.word(slot, WORD.reference)),
      inner: this.inners.at(slots.word(slot, WORD.inner)),
      devicePort: slots.word(slot, WORD.devicePort),
      remotePort: slots.word(slot, WORD.remotePort),
      external: { address: slots.address(slot), port: slots.word(slot, WORD.externalPort) },
      index: slots.word(slot, WORD.index),
      grantedSeconds: slots.word(slot, WORD.grantedSeconds),
      startedAtMs: slots.double(slot, LONG.startedAtMs),
      expiresAtMs: slots.double(slot, LONG.expiresAtMs),
      expiresAtNs: slots.long(slot, LONG.expiresAtNs),
      correlator: slots.text(slot, 'correlator'),
    };
  }
}
