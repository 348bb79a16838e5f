/**
 * The triggers of agent.yaml: where they come from, and which ports of devices
 * take them. Those are reachable by triggers and by nothing else (TR 23.888,
 * 5.8.2), so that whoever sends, grants and filters asks here.
 */
import { SPECIAL, sharedRealms } from './address-plan.ts';
import type { Document, Issue, Path } from './document.ts';
import { type Address, contains, type Endpoint, type Family, type Prefix } from './net.ts';
import type { PortRange, Service } from './words.ts';

export interface TriggerPlan {
  /** Addresses of this host toward the devices: at most one of a family. */
  readonly sources: readonly Address[];
  readonly sourcePort: number;
  /** The trigger ports of devices. */
  readonly ports: readonly PortRange[];
  /** Those of them that are spoken to by CoAP. */
  readonly coapPorts: readonly PortRange[];
  /** The resource of a device that takes triggers, segment by segment. */
  readonly coapPath: readonly string[];
}

export function covers(ranges: readonly PortRange[], port: number): boolean {
  return ranges.some(({ low, high }) => low <= port && port <= high);
}

/** `5683, 61616-61631` */
export function portsText(ranges: readonly PortRange[]): string {
  return ranges.map(({ low, high }) => (low === high ? low : `${low}-${high}`)).join(', ');
}

/** Whether two lists of ports have one in common. */
export function meet(some: readonly PortRange[], others: readonly PortRange[]): boolean {
  return some.some((one) => others.some((other) => one.low <= other.high && other.low <= one.high));
}

/** An interface of this host, and what addresses it has. */
interface Addressed {
  readonly name: string;
  readonly addresses: readonly Address[];
}

/** A source from which nothing, or not what devices trust, can come as things stand on this host. */
export interface SourceFault {
  readonly source: string;
  readonly isMissing: boolean;
  readonly why: string;
}

/** What this host lacks of what the plan says of it; nobody else would notice before the first trigger. */
export function sourceFaults(
  { sources }: Pick<TriggerPlan, 'sources'>,
  links: readonly Addressed[],
  inside: readonly { readonly interface: string }[],
): SourceFault[] {
  return sources.flatMap(({ text: source }) => {
    const names = links
      .filter(({ addresses }) => addresses.some(({ text }) => text === source))
      .map(({ name }) => name);
    if (names.length === 0) return { source, isMissing: true, why: `${source} is no address of this host` };
    if (inside.some((one) => names.includes(one.interface))) return [];
    return { source, isMissing: false, why: `${source} is of ${names.join(', ')}, which is no inside interface` };
  });
}

/** The part of agent.yaml that this is about, as written. */
interface Written {
  readonly triggers?: Omit<TriggerPlan, 'coapPorts'> & { readonly coapPorts?: readonly PortRange[] };
  readonly pools: {
    readonly grants: { readonly prefixes: readonly Prefix[] };
    readonly egress: { readonly prefixes: readonly Prefix[] };
  };
  readonly inside: readonly { readonly realm: string; readonly prefixes: readonly Prefix[] }[];
  readonly services: readonly Service[];
  readonly api: { readonly listen: Endpoint };
  readonly radius?: { readonly listen: readonly Endpoint[] };
}

/** From here on hosts choose the ports of what they begin (Linux; RFC 6335 6 begins higher). */
const EPHEMERAL = 32_768;

/** What is wrong with the triggers; `servicesMost`: what the gate has room for, the answers to triggers included. */
export function triggerIssues({ value, locate }: Document<Written>, servicesMost: number): Issue[] {
  const { triggers, pools, services, api, radius } = value;
  if (!triggers) return [];
  const issues: Issue[] = [];
  const say = (path: Path, message: string) => issues.push({ ...locate(['triggers', ...path]), message });
  const taken = [
    ...pools.grants.prefixes.map((prefix) => ({ prefix, what: 'in the grants pool' })),
    ...pools.egress.prefixes.map((prefix) => ({ prefix, what: 'in the egress pool' })),
    ...SPECIAL.map(({ prefix, owner }) => ({ prefix, what: `one of ${owner}` })),
  ];
  const listeners = [
    { address: api.listen.address, what: 'where the API listens' },
    ...(radius?.listen ?? []).map(({ address }) => ({ address, what: 'where RADIUS is heard' })),
  ];
  for (const [i, source] of triggers.sources.entries()) {
    const found = [
      ...taken.filter(({ prefix }) => contains(prefix, source)),
      ...listeners.filter(({ address }) => address.text === source.text),
    ];
    for (const { what } of found)
      say(['sources', i], `${source.text} is ${what}: expected an address of this host toward the devices`);
    if (triggers.sources.slice(0, i).some(({ family }) => family === source.family))
      say(['sources', i], `expected at most one ${source.family} address: devices trust one`);
  }
  if (services.some(({ protocol, port }) => protocol === 'udp' && port === triggers.sourcePort))
    say(['sourcePort'], `udp/${triggers.sourcePort} is one of services: expected a port of its own`);
  if (services.length >= servicesMost)
    say(
      [],
      `with triggers expected at most ${servicesMost - 1} services: the answers of devices take the place of one`,
    );
  for (const [i, { low, high }] of triggers.coapPorts?.entries() ?? [])
    if (!triggers.ports.some((one) => one.low <= low && high <= one.high))
      say(['coapPorts', i], `${portsText([{ low, high }])} is not within triggers.ports`);
  return issues;
}

export function triggerWarnings({ value: { triggers, inside }, locate }: Document<Written>): Issue[] {
  if (!triggers) return [];
  const place = (...path: Path) => locate(['triggers', ...path]);
  const families = (['ipv4', 'ipv6'] as const).filter((family) =>
    inside.some(({ prefixes }) => prefixes.some((prefix) => prefix.family === family)),
  );
  const isSource = (wanted: Family) => triggers.sources.some(({ family }) => family === wanted);
  return [
    ...families
      .filter((family) => !isSource(family))
      .map((family) => ({
        ...place('sources'),
        message: `realms have ${family} addresses but no source is one: no trigger reaches a device by ${family}`,
      })),
    ...[...sharedRealms(inside)].map((realm) => ({
      ...place(),
      message: `realm "${realm}" shares addresses with another one: no trigger reaches its devices`,
    })),
    ...triggers.ports.flatMap(({ high }, i) =>
      high < EPHEMERAL
        ? []
        : {
            ...place('ports', i),
            message: `devices choose source ports from ${EPHEMERAL} on: what they begin from a trigger port is dropped`,
          },
    ),
  ];
}
