/**
 * What operators are told of a packet (`explain packet`, packet-walk.ts), where
 * the walk speaks of such a packet: it knows first packets that are whole, no
 * addresses of the host, and grants by what they are asked for.
 */
import { address, contains, type prefix } from '../../../agent/core/net.ts';
import type { ExternalId } from '../../../agent/core/words.ts';
import { walkSite } from '../../../agent/files/operator-files.ts';
import { BEGINNING_TYPES, type WalkEnd, type WalkedPacket } from '../../../agent/policy/filters.ts';
import { outcomeText, walkPacket } from '../../../agent/policy/packet-walk.ts';
import type { Policy } from '../../../agent/policy/policy.ts';
import type { Gateway } from './gateway.ts';
import type { Grants } from './grants.ts';
import { bindings, DEVICES, isOwn, type Place, placeOf, REALMS } from './neighbourhood.ts';
import type { Packet } from './packet.ts';

/** The outcome that operators are told; undefined where the walk does not speak of such a packet. */
export function told(
  { config, setup: { pool, own } }: Gateway,
  policy: Policy,
  grants: Grants,
  from: Place,
  packet: Packet,
): string | undefined {
  const { family, source, destination, protocol, ports, icmp: message, tcp: segment, fragment, hops, bytes } = packet;
  const isPlain = !fragment && !packet.isSteered && hops > 1 && packet.upperAt === (family === 'ipv4' ? 20 : 40);
  if (!isPlain || (segment && (segment.flags & 0x17) !== 2) || bytes.length === 0) return undefined;
  const name = ({ 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'icmpv6' } as const)[protocol];
  if (!name) return undefined;
  if (message && !BEGINNING_TYPES[name as 'icmp'].includes(message.type) && from !== 'outside') return undefined;
  const inside = (place: Place, text: string): WalkEnd => {
    const device = DEVICES.find((one) => one.place === place && one[family] === text);
    const facts = device?.name && {
      device: { externalId: device.name as unknown as ExternalId, attributes: device.attributes },
    };
    return { side: 'inside', address: address(text), realm: place as never, ...facts };
  };
  const alive = grants.all.filter((one) => grants.isAlive(one));
  const here = alive.find(
    ({ mapping: { external, protocol: of } }) =>
      of === name && external.port === ports?.destination && external.address.text === destination.text,
  );
  // To this endpoint goes what is for this grant, whoever else has one for the same port.
  const given = alive.filter(
    (one) =>
      !here ||
      one === here ||
      one.mapping.protocol !== here.mapping.protocol ||
      one.mapping.device.port !== here.mapping.device.port ||
      one.mapping.device.address.text !== here.mapping.device.address.text,
  );
  const holder = here && DEVICES[here.text.device];
  const isInner = REALMS.some((one) => one.family === family && addressIn(one, destination.text));
  const isGrantsPool = [...pool.ipv4, ...pool.ipv6].some((one) => addressIn(one, destination.text));
  if (from === 'outside' && !here && (isGrantsPool || !isInner)) return undefined;
  // It knows no addresses of the host, and of an inner address not where it came in.
  if (isHost(destination) || isHost(source) || own.some(({ address: one }) => one.text === destination.text))
    return undefined;
  if (from !== 'outside' && REALMS.some((one) => contains(one, source)) && placeOf(source) !== from) return undefined;
  // It takes a source of the inside for one that is bound.
  if (from !== 'outside' && !bindings().some((one) => contains(one.prefix, source))) return undefined;
  const walked: WalkedPacket = {
    from: from === 'outside' ? { side: 'outside', address: source } : inside(from, source.text),
    to: holder
      ? {
          side: 'inside',
          device: { externalId: holder.name as unknown as ExternalId, attributes: holder.attributes },
        }
      : isInner
        ? inside(placeOf(destination), destination.text)
        : { side: 'outside', address: destination },
    protocol: name,
    ...(ports && { port: here ? here.mapping.device.port : ports.destination, sourcePort: ports.source }),
    ...(message && { type: message.type }),
    given: given.flatMap(({ mapping: { protocol: of, device, remote, remotePort }, server, text }) => {
      const externalId = DEVICES[text.device]?.name as unknown as ExternalId;
      return remote === 'all' && remotePort === 0 && text.family === family
        ? [{ server, device: externalId, protocol: of, port: device.port }]
        : [];
    }),
  };
  // The walk knows grants by what they are asked for, and not what they were narrowed to.
  const narrowed = alive.some(({ mapping: { remote, remotePort, device, external, protocol: of } }) => {
    const meets =
      from === 'outside'
        ? external.address.text === destination.text && external.port === ports?.destination
        : device.address.text === source.text && device.port === ports?.source;
    return of === name && meets && (remote !== 'all' || remotePort !== 0);
  });
  if (narrowed || isTombstone(grants, from, packet)) return undefined;
  return outcomeText(walkPacket(policy, walked, walkSite(config)).outcome);
}

/** A leftover of a grant that has just ended: the walk takes grants to live, or knows none. */
function isTombstone(grants: Grants, from: Place, { source, ports, protocol }: Packet): boolean {
  return (
    from !== 'outside' &&
    protocol === 17 &&
    grants.all.some(
      (one) =>
        !grants.isAlive(one) &&
        one.mapping.device.address.text === source.text &&
        one.mapping.device.port === ports?.source,
    )
  );
}

function isHost(end: Packet['source']): boolean {
  return isOwn(end) && end.text !== '::' && !end.text.startsWith('fe80:');
}

function addressIn(of: ReturnType<typeof prefix>, text: string): boolean {
  return contains(of, address(text));
}
