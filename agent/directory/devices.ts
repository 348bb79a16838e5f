/**
 * The devices file: which devices there are, by external identifier, MSISDN
 * and IMSI, and which inner addresses they hold from the start.
 *
 * An identifier stands for one device, a device holds one address of a
 * family, an address of a realm is held by one device; what breaks this is an
 * issue at its place, naming the place it clashes with.
 */
import type { z } from 'zod';
import { type Claim, clashesAmong } from '../core/claims.ts';
import { byPlace, type Document, type Issue, type Path, readDocument } from '../core/document.ts';
import { address, list, mapping, name, unknownWord } from '../core/fields.ts';
import { FOREIGN_HASH, type Identities } from '../core/identities.ts';
import { type Address, contains, type Prefix } from '../core/net.ts';
import type { Device, InnerAddress, RealmName } from '../core/words.ts';
import { deviceKeys, type OwnerOf, type Registry, wrongClaim } from './registry.ts';

/** A device of the file with what it holds. */
export interface ListedDevice {
  readonly device: Device;
  readonly bindings: readonly InnerAddress[];
}

/** The realms there are, and where their devices are. */
export interface Realm {
  readonly realm: RealmName;
  readonly prefixes: readonly Prefix[];
}

/** What the running agent holds the file against. */
export interface FileSurroundings {
  /** What imports have registered. */
  readonly registry?: Registry;
  readonly identities?: Pick<Identities, 'isForeign'>;
  readonly ownerOf?: OwnerOf;
  /** What an address is of this host's own, if it is. */
  readonly ownUse?: (address: Address) => string | undefined;
}

/** In characters: some fifty thousand devices, which take seconds to read. More are imported. */
const MAX_LENGTH = 8 * 2 ** 20;

const binding = mapping({ realm: name<RealmName>(), address });
const listed = mapping({ ...deviceKeys, bindings: list(binding, 'bindings', 0).exactOptional() });

const devicesFile = mapping({ devices: list(listed, 'devices', 0) });

/** Reads a devices file. */
export function readDevices(
  text: string,
  file: string,
  realms: readonly Realm[],
  surroundings: FileSurroundings = {},
): { readonly devices: readonly ListedDevice[] } | { readonly issues: readonly Issue[] } {
  const reading = readDocument(text, file, devicesFile, MAX_LENGTH);
  if ('issues' in reading) return reading;
  const { document } = reading;
  const issues = [
    ...clashesAmong(claimsOf(document)),
    ...strayBindings(document, realms, surroundings.ownUse),
    ...contradictions(document, surroundings),
  ].sort(byPlace);
  if (issues.length > 0) return { issues };
  const devices = document.value.devices.map(({ bindings = [], mtcUser: _, ...device }) => ({ device, bindings }));
  return { devices };
}

type Devices = z.output<typeof devicesFile>;

function* claimsOf({ value, locate }: Document<Devices>): Generator<Claim> {
  const claim = (what: string, path: Path, key = what): Claim => ({ key, what, place: () => locate(path) });
  // These two are not told: an issue may come to stand in the log.
  for (const [i, { externalId: id, msisdn: number, imsi: subscriber, bindings = [] }] of value.devices.entries()) {
    yield claim(`external identifier ${id}`, ['devices', i, 'externalId']);
    if (number) yield claim('MSISDN', ['devices', i, 'msisdn'], `MSISDN ${number}`);
    if (subscriber) yield claim('IMSI', ['devices', i, 'imsi'], `IMSI ${subscriber}`);
    for (const [j, { realm, address: held }] of bindings.entries()) {
      const path = ['devices', i, 'bindings', j, 'address'];
      yield claim(`address ${held.text} in realm ${realm}`, path);
      yield claim(`${held.family} address of ${id}`, path, `device ${i} ${held.family}`);
    }
  }
}

function strayBindings(
  { value, locate }: Document<Devices>,
  realms: readonly Realm[],
  ownUse: FileSurroundings['ownUse'],
): Issue[] {
  const known = new Map(realms.map((realm) => [realm.realm, realm.prefixes]));
  return value.devices.flatMap(({ bindings = [] }, i) =>
    bindings.flatMap(({ realm, address: held }, j) => {
      const prefixes = known.get(realm);
      if (!prefixes) {
        const message = unknownWord('realm', realm, [...known.keys()]);
        return { ...locate(['devices', i, 'bindings', j, 'realm']), message };
      }
      const own = ownUse?.(held);
      if (own !== undefined)
        return { ...locate(['devices', i, 'bindings', j, 'address']), message: `${own}: no device can hold it` };
      if (prefixes.some((prefix) => contains(prefix, held))) return [];
      const message = `${held.text} is not in realm ${realm} (${prefixes.map(({ text }) => text).join(', ')})`;
      return { ...locate(['devices', i, 'bindings', j, 'address']), message };
    }),
  );
}

/** What imports or rule files say otherwise. */
function* contradictions(
  { value, locate }: Document<Devices>,
  { registry, ownerOf, identities }: FileSurroundings,
): Generator<Issue> {
  for (const [i, listed] of value.devices.entries()) {
    const { externalId, msisdn, imsi } = listed;
    for (const key of ['msisdn', 'imsi'] as const)
      if (identities?.isForeign(listed[key] ?? '')) yield { ...locate(['devices', i, key]), message: FOREIGN_HASH };
    const wrong = ownerOf && wrongClaim(listed, ownerOf);
    if (wrong !== undefined) yield { ...locate(['devices', i, 'mtcUser']), message: wrong };
    const holders = registry && [
      ['externalId', `external identifier ${externalId}`, registry.byExternalId(externalId)] as const,
      ['msisdn', 'this MSISDN', msisdn && registry.byMsisdn(msisdn)] as const,
      ['imsi', 'this IMSI', imsi && registry.byImsi(imsi)] as const,
    ];
    for (const [key, what, holder] of holders ?? []) {
      if (!holder || holder.source === 'file') continue;
      const whose = holder.externalId === externalId ? '' : ` for ${holder.externalId}`;
      const message = `${what} was imported${whose}; leave it out here, or out of an import with --replace`;
      yield { ...locate(['devices', i, key]), message };
    }
  }
}
