/**
 * The registry: which devices there are, and what is known of each. A device
 * is registered by the devices file or by an import, and what the file says,
 * the file alone unsays.
 *
 * Here is what the others need of it, and how a device is written down, in the
 * devices file and in imports alike. Where it lies is registry-store.ts: a
 * million devices are no objects of the agent, each is read when it is asked
 * for.
 */
import type { z } from 'zod';
import {
  attributes,
  attributeValue,
  externalId,
  imsi,
  interfaceId,
  mapping,
  msisdn,
  name,
  unknownWord,
} from '../core/fields.ts';
import type { Device, ExternalId, Imsi, Msisdn, MtcUserName } from '../core/words.ts';

export type Source = 'file' | 'import';

export interface RegisteredDevice extends Device {
  readonly source: Source;
}

/** Each look-up is one search of an index, whether there is such a device or not. */
export interface Registry {
  has(externalId: ExternalId): boolean;
  byExternalId(externalId: ExternalId): RegisteredDevice | undefined;
  byMsisdn(msisdn: Msisdn): RegisteredDevice | undefined;
  byImsi(imsi: Imsi): RegisteredDevice | undefined;
}

/** The MTC user whose patterns a device matches, by the policy in force. */
export type OwnerOf = (externalId: ExternalId) => MtcUserName | undefined;

/** How a device is written down. `mtcUser` is a claim: the patterns of the rule files decide, and are not overruled. */
export const deviceKeys = {
  externalId,
  msisdn: msisdn.exactOptional(),
  imsi: imsi.exactOptional(),
  mtcUser: name<MtcUserName>().exactOptional(),
  interfaceId: interfaceId.exactOptional(),
  attributes: attributes(attributeValue).exactOptional(),
};

export const writtenDevice = mapping(deviceKeys);
export type WrittenDevice = z.output<typeof writtenDevice>;

/** What is wrong with a claim about whose a device is; undefined where nothing is. */
export function wrongClaim(
  { externalId: device, mtcUser }: Pick<WrittenDevice, 'externalId' | 'mtcUser'>,
  ownerOf: OwnerOf,
): string | undefined {
  if (mtcUser === undefined) return undefined;
  const owner = ownerOf(device);
  if (owner === mtcUser) return undefined;
  const known = owner === undefined ? 'of no MTC user' : `of ${owner}`;
  return `${device} is ${known} by the rule files, not of ${mtcUser}`;
}

/** The keys by which a device is written down, as the columns of a table: an attribute is `attributes.NAME`. */
export const COLUMNS = Object.keys(deviceKeys).filter((key) => key !== 'attributes');

export const ATTRIBUTE_COLUMN = 'attributes.';

export function unknownColumn(column: string): string {
  return unknownWord('column', column, [...COLUMNS, `${ATTRIBUTE_COLUMN}NAME`]);
}
