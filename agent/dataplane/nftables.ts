/**
 * The base in the kernel: table `inet mtgate`, put there whole by `nft` in
 * one transaction, and looked at again to see that it still stands. The text
 * comes from policy/ruleset.ts.
 *
 * Whoever changes anything in nftables raises its generation: as long as that
 * is the one at which the table was seen to stand, nft need not be run. One
 * change comes without: up to Linux 6.15 the kernel takes the hook of an
 * interface that goes out of a chain. So the chains are compared, too.
 * linux/netfilter/nfnetlink.h, nf_tables.h.
 */
import { AgentError } from '../core/errors.ts';
import { run } from './command.ts';
import { ask } from './netlink.ts';
import { attribute, attributeIn, joined, type Question, textIn } from './netlink-message.ts';

const TABLE = ['inet', 'mtgate'] as const;
/** Beside it, how many flows each device has (policy/flow-caps.ts): never listed, since packets fill it. */
const FLOWS_TABLE = 'mtgate_flows';

/** The sets that follow who is in which device group, and the counters of filters (policy/filter-ruleset.ts). */
const GROUP_SET =
  /\n\tset (group_\S+) \{\n\t\ttype [^\n]*\n(?:\t\tflags interval\n)?(?:\t\telements = \{([^}]*)\}\n)?\t\}\n/g;
const COUNTER_PREFIX = 'filter_';
/** What packets themselves put into sets (policy/ruleset.ts): how much each device answered of late. */
const FILLED_BY_PACKETS = /(\n\tset trigger_answers_\S+ \{\n(?:\t\t(?!elements)[^\n]*\n)*)\t\telements = \{[^}]*\}\n/g;

/** NFNL_SUBSYS_NFTABLES, in the upper byte of a message's type. */
const NFTABLES = 10 << 8;
const NFT_MSG_GETCHAIN = 4;
const NFT_MSG_GETRULE = 7;
const NFT_MSG_GETGEN = 16;
/** struct nfgenmsg: family, version, resource. */
const NFGEN_HEADER = 4;
const NFPROTO_INET = 1;
const NFTA_GEN_ID = 1;
const NFTA_CHAIN_TABLE = 1;

const GENERATION: Question = {
  what: 'the generation of nftables',
  type: NFTABLES | NFT_MSG_GETGEN,
  dump: false,
  body: new Uint8Array(NFGEN_HEADER),
};
const NFTA_RULE_TABLE = 1;
const FLOW_RULES: Question = {
  what: 'the rules on flows of devices',
  type: NFTABLES | NFT_MSG_GETRULE,
  dump: true,
  body: joined([Uint8Array.of(NFPROTO_INET, 0, 0, 0), attribute(NFTA_RULE_TABLE, `${FLOWS_TABLE}\0`)]),
};
const CHAINS: Question = {
  what: 'the chains of nftables',
  type: NFTABLES | NFT_MSG_GETCHAIN,
  dump: true,
  body: Uint8Array.of(NFPROTO_INET, 0, 0, 0),
};

/** An address that leaves, or enters, a set: `"pgw0" . 10.20.0.2`. */
export type Element = readonly [set: string, element: string];

interface Shown {
  /** The tables without their counters' values, and what is in sets that change. */
  readonly text: string;
  readonly elements: ReadonlyMap<string, ReadonlySet<string>>;
}

export class Base {
  /** What nft shows of the table right after it was applied. */
  #applied: string | undefined;
  /** What is in its group sets: as applied, and as changed since. */
  #elements = new Map<string, Set<string>>();
  /** The edition of nftables at which the table was last seen to stand as applied. */
  #stood: string | undefined;

  /** Replaces the table by this one; there is no moment without one. @throws AgentError nftFailed */
  async apply(text: string): Promise<void> {
    const [family, name] = TABLE;
    // Declared first, so that deleting it never fails; nft carries the three out as one.
    const outcome = await nft(['-f', '-'], `table ${family} ${name}\ndelete table ${family} ${name}\n${text}`);
    if (outcome.status !== 0) throw new AgentError('nftFailed', `the base was not applied: ${outcome.complaint}`);
    this.#stood = undefined;
    const now = await shown();
    this.#applied = now?.text;
    this.#elements = new Map([...(now?.elements ?? [])].map(([set, elements]) => [set, new Set(elements)]));
  }

  /** Takes addresses from group sets, or puts them there, as one. @throws AgentError nftFailed */
  async change(verb: 'add' | 'delete', elements: readonly Element[]): Promise<void> {
    const isNews = ([set, element]: Element) =>
      (this.#elements.get(set)?.has(element) ?? false) === (verb === 'delete');
    const news = elements.filter(isNews);
    if (news.length === 0) return;
    const table = TABLE.join(' ');
    const outcome = await nft(
      ['-f', '-'],
      news.map((one) => `${verb} element ${table} ${one[0]} { ${one[1]} }\n`).join(''),
    );
    if (outcome.status !== 0) throw new AgentError('nftFailed', `a device group was not changed: ${outcome.complaint}`);
    for (const [set, element] of news) {
      const own = this.#elements.get(set) ?? new Set();
      this.#elements.set(set, own);
      if (verb === 'add') own.add(element);
      else own.delete(element);
    }
  }

  /** What the filters have counted, by id; empty where there is no table. */
  async counted(): Promise<Map<string, { readonly packets: bigint; readonly bytes: bigint }>> {
    const { output } = await nft(['list', 'counters', 'table', ...TABLE]);
    const found = output.matchAll(/counter (\S+) \{\s*packets (\d+) bytes (\d+)/g);
    return new Map(
      [...found].flatMap(([, name = '', packets = '0', bytes = '0']) =>
        name.startsWith(COUNTER_PREFIX)
          ? [[name.slice(COUNTER_PREFIX.length), { packets: BigInt(packets), bytes: BigInt(bytes) }] as const]
          : [],
      ),
    );
  }

  /** Packets that would have begun a device's flow and were refused. */
  async refusedFlows(): Promise<number> {
    const { output } = await nft(['list', 'counters', 'table', 'inet', FLOWS_TABLE]);
    return Number(/packets (\d+)/.exec(output)?.[1] ?? 0);
  }

  /** Whether the table stands as it was applied, or a chain, rule or element is gone or added. */
  async look(): Promise<'stands' | 'baseMissing' | 'baseChanged'> {
    const current = await edition(); // before the list: what changes in between is listed once more
    if (current === this.#stood) return 'stands';
    const now = await shown();
    if (now === undefined) return 'baseMissing';
    if (now.text !== this.#applied || !sameElements(now.elements, this.#elements)) return 'baseChanged';
    this.#stood = current;
    return 'stands';
  }
}

/** Another one after every change that nft would show of the table. */
async function edition(): Promise<string> {
  const [[generation], chains] = await Promise.all([ask('netfilter', GENERATION), ask('netfilter', CHAINS)]);
  const id = generation && attributeIn(generation.body, NFGEN_HEADER, NFTA_GEN_ID);
  if (!id) throw new AgentError('netlinkFailed', 'nftables does not tell its generation');
  const ours = chains.flatMap(({ body }) => {
    const table = attributeIn(body, NFGEN_HEADER, NFTA_CHAIN_TABLE);
    const name = table && textIn(table);
    return name === TABLE[1] || name === FLOWS_TABLE ? body.subarray(NFGEN_HEADER) : [];
  });
  return Buffer.concat([id, ...ours]).toString('latin1');
}

/** The table without counters, with the rules on flows beside it; undefined where there is none. */
async function shown(): Promise<Shown | undefined> {
  const flowRules = (await ask('netfilter', FLOW_RULES)).map(({ body }) =>
    Buffer.from(body.subarray(NFGEN_HEADER)).toString('hex'),
  );
  const outcome = await nft(['--stateless', 'list', 'table', ...TABLE]);
  if (outcome.status !== 0) return undefined;
  const elements = new Map<string, Set<string>>();
  const text = outcome.output.replace(FILLED_BY_PACKETS, '$1').replace(GROUP_SET, (_, set: string, list?: string) => {
    elements.set(set, new Set(elementsOf(list)));
    return `\n\tset ${set}\n`;
  });
  return { text: [text, ...flowRules].join('\n'), elements };
}

function elementsOf(list = ''): string[] {
  return list.split(',').flatMap((one) => one.trim() || []);
}

function sameElements(a: Shown['elements'], b: Shown['elements']): boolean {
  const names = new Set([...a.keys(), ...b.keys()]);
  return [...names].every((name) => {
    const [one, other] = [a.get(name) ?? new Set<string>(), b.get(name) ?? new Set<string>()];
    return one.size === other.size && [...one].every((element) => other.has(element));
  });
}

async function nft(args: readonly string[], input?: string) {
  try {
    return await run('nft', args, input);
  } catch (cause) {
    throw new AgentError('libraryMissing', 'nft cannot be run', { cause });
  }
}
