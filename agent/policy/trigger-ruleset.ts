/**
 * What trigger ports are guarded by, as rules of the base (ruleset.ts), in
 * nft's words: what comes to one is no trigger unless the agent sends it, from
 * the sources that it has for that (TS 23.682, 5.2.1).
 */
import type { Address, Family } from '../core/net.ts';
import { portsText, type TriggerPlan } from '../core/trigger-plan.ts';
import { chain, deniedByBase, insideSet, wordOf } from './nft-text.ts';

export interface TriggerSetup {
  readonly inside: readonly { readonly interface: string }[];
  readonly nflogGroup: number;
  readonly filterCopiesPerSecond: number;
  /** Where triggers come from, and the ports of devices that they alone reach. */
  readonly triggers?: Pick<TriggerPlan, 'sources' | 'sourcePort' | 'ports'>;
}

/** The chain of what is denied as a trigger from elsewhere. */
export const UNAUTHORISED = 'unauthorised_trigger';
/** Of sets that fill by themselves: how much each device has answered of late (nftables.ts does not compare them). */
const ANSWERS_PREFIX = 'trigger_answers_';
/** A trigger has an answer or two. */
const ANSWER_RATE = 'limit rate over 10/second burst 50 packets';
/** Devices that answered within two seconds; of more, the rest are not counted. */
const ANSWERERS_MOST = 16_384;

/** The ports of devices that take triggers; none where no device does. */
export function atTriggerPorts({ triggers }: TriggerSetup, which: 'dport' | 'sport', verdict: string): string[] {
  return triggers ? [`meta l4proto { tcp, udp } th ${which} { ${portsText(triggers.ports)} } ${verdict}`] : [];
}

/** What is for a source of triggers. */
export function toTriggerSources({ triggers }: TriggerSetup, verdict: (source: Address) => string): string[] {
  if (!triggers) return [];
  const { sources, sourcePort } = triggers;
  return sources.map((source) => `${wordOf(source)} daddr ${source.text} udp dport ${sourcePort} ${verdict(source)}`);
}

/** Of what a device may answer, so much that it holds up no other's. */
export function triggerAnswers(setup: TriggerSetup): string[] {
  return toTriggerSources(
    setup,
    ({ family }) =>
      `ct state established ct direction reply update @${answerSet(family)} { ${wordOf({ family })} saddr ${ANSWER_RATE} } counter drop`,
  );
}

function answerSet(family: Family): string {
  return `${ANSWERS_PREFIX}${family}`;
}

/**
 * What a trigger port is guarded by beside the way of packets that are
 * forwarded: nobody on the gateway itself triggers but from the sources, and
 * from there nothing leaves but toward devices.
 */
export function triggerChains(setup: TriggerSetup): string[] {
  const { triggers } = setup;
  if (!triggers) return [];
  const { sources, sourcePort } = triggers;
  const inside = insideSet(setup);
  return [
    ...sources.map(
      ({ family }) =>
        `set ${answerSet(family)} { type ${family}_addr; flags dynamic,timeout; timeout 2s; size ${ANSWERERS_MOST};\n}`,
    ),
    deniedByBase(UNAUTHORISED, 'unauthorisedTrigger', setup),
    chain('from_gateway', [
      'type filter hook output priority filter; policy accept;',
      ...sources.flatMap((source) => {
        const own = `${wordOf(source)} saddr ${source.text} udp sport ${sourcePort}`;
        return [`oifname ${inside} ${own} accept`, `${own} counter drop`];
      }),
      ...atTriggerPorts(setup, 'dport', 'counter drop').map((rule) => `oifname ${inside} ${rule}`),
    ]),
  ];
}
