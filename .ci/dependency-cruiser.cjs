/** Who may import whom. Each rule says why; the house is drawn in the README. */
const own = '^agent/';
const only = (name, comment, from, to) => ({ name, comment, severity: 'error', from, to });

/** Adapters touch the operating system; whoever decides must not know them. */
const adapters =
  '^agent/(host|grants/store|desk/desk-store|editions/edition-store|inspector/(inspector|nflog|denial-store)|directory/listener|triggers/trigger-source|dataplane/(bpf|test-run|tc|loader|attachment|gate|netlink|nftables|iproute|conntrack)|api/(server|management|loopback)|triggers/store|reports/(post|outbox-store)|nat/(nat-record|recorder|record-store|collector))\\.ts$';

/** Whole subjects decide; files that are split or added stand under the rule by themselves. */
const decides =
  '^agent/(core|policy|directory|grants|triggers|desk|editions|inspector|nat|dataplane)/|^agent/doctor/(finding|.*-judgements)\\.ts$|^agent/cli/candidates\\.ts$';

/** Of these the ones that need something of Node themselves: each is a file at the edge, but for RADIUS, which has a rule of its own. */
const touches =
  '^agent/(directory/(listener|radius)|grants/(store|last-used)|triggers/trigger-source|desk/desk-store|editions/edition-store|nat/(recorder|record-store|collector)|dataplane/(bpf|command|loader|attachment|netlink|conntrack))\\.ts$';

/** A package has one home, so that replacing it is one file's work. */
const home = (name, pkg, places) =>
  only(
    `home-of-${name}`,
    `${pkg} is used in one place only`,
    { path: own, pathNot: places },
    { path: `^node_modules/${pkg}/` },
  );

module.exports = {
  forbidden: [
    only('no-cycles', 'Two files that need each other are one file, or hide a third.', {}, { circular: true }),
    only('core-is-ours-alone', 'The words of the domain depend on nothing.', { path: '^agent/core/' }, { path: own, pathNot: '^agent/core/' }),
    only(
      'core-is-pure',
      'Decisions must run without a machine around them.',
      { path: decides, pathNot: touches },
      { dependencyTypes: ['core'] },
    ),
    only('policy-knows-core', 'Policy is read, not run: it needs the words and nothing else.', { path: '^agent/policy/' }, { path: own, pathNot: '^agent/(core|policy)/' }),
    only(
      'editions-know-policy',
      'How policies follow each other rests on what they say; what that does to grants is looked at through grants.',
      { path: '^agent/editions/' },
      { path: own, pathNot: '^agent/(core|policy|editions|grants|directory|sqlite)/|^agent/inspector/refusals\\.ts$' },
    ),
    only(
      'desk-knows-policy',
      'What MTC users say is laid over the policy; what that does to grants is done by the grants.',
      { path: '^agent/desk/' },
      { path: own, pathNot: '^agent/(core|policy|desk|grants)/' },
    ),
    only('processes-know-core', 'How a child process is started and watched is the same whatever it does.', { path: '^agent/processes/' }, { path: own, pathNot: '^agent/(core|processes)/' }),
    only(
      'who-has-a-child',
      'What needs a process of its own is seldom, and then each side is one file.',
      { path: own, pathNot: '^agent/(processes/[a-z-]+|inspector/(inspector|nflog)|nat/(nat-record|recorder))\\.ts$' },
      { path: '^agent/processes/' },
    ),
    only('sqlite-knows-core', 'How a file is opened and written is the same whatever lies in it.', { path: '^agent/sqlite/' }, { path: own, pathNot: '^agent/(core|sqlite)/' }),
    only('directory-knows-core', 'Who holds which address needs no policy.', { path: '^agent/directory/' }, { path: own, pathNot: '^agent/(core|directory|sqlite)/' }),
    only(
      'radius-computes-digests',
      'The authenticators of RADIUS are functions of their bytes; nothing else of the machine is needed to read a packet.',
      { path: '^agent/directory/radius\\.ts$' },
      { dependencyTypes: ['core'], pathNot: '^(node:)?crypto$' },
    ),
    only(
      'triggers-know-their-ports',
      'Triggers are decided as grants are, and sent by who knows nothing of them.',
      { path: '^agent/triggers/' },
      { path: own, pathNot: '^agent/(core|triggers|policy|directory|sqlite)/' },
    ),
    only('reports-know-the-ledger', 'What an MTC user may see is made from what the inspector keeps, and from nothing else.', { path: '^agent/reports/' }, { path: own, pathNot: '^agent/(core|reports|sqlite)/|^agent/inspector/(denials|refusals)\\.ts$' }),
    only(
      'reports-compute-signatures',
      'What is told, to whom and when is a function of what it is given; a signature is one of its bytes.',
      { path: '^agent/reports/', pathNot: '^agent/reports/(post|outbox-store)\\.ts$' },
      { dependencyTypes: ['core'], pathNot: '^(node:)?crypto$' },
    ),
    only(
      'nat-knows-core',
      'The NAT record is of what the kernel tells and of what grants are told to be; who held an address is asked through a function.',
      { path: '^agent/nat/' },
      { path: own, pathNot: '^agent/(core|nat|processes|sqlite)/|^agent/directory/(binding|prefix-trie)\\.ts$|^agent/dataplane/(flow-message|conntrack-message|netlink)\\.ts$' },
    ),
    only('inspector-knows-core', 'Who was turned away is told in the words of the domain; whose it was is asked through a function.', { path: '^agent/inspector/' }, { path: own, pathNot: '^agent/(core|inspector|processes|sqlite)/' }),
    only(
      'grants-know-their-ports',
      'Grants are decided against interfaces.',
      { path: '^agent/grants/' },
      { path: own, pathNot: '^agent/(core|grants|policy|directory|sqlite)/|^agent/dataplane/dataplane\\.ts$' },
    ),
    only(
      'dataplane-knows-core',
      'A packet path that knew of requests would be two things.',
      { path: '^agent/dataplane/' },
      { path: own, pathNot: '^agent/(core|dataplane)/' },
    ),
    only(
      'adapters-are-plugged-in-by-main',
      'Kernel, database, sockets and files sit at the edge.',
      { path: own, pathNot: '^agent/(main|daemon/[a-z-]+|cli|cli/offline-apply|use-cases/device-import-worker|nat/recorder)\\.ts$|^agent/dataplane/(test-run|tc|loader|attachment|gate|iproute|nftables|conntrack)\\.ts$' },
      { path: adapters, dependencyTypesNot: ['type-only'] },
    ),
    only('use-cases-know-no-daemon', 'What can be done is not how the daemon is put together.', { path: own, pathNot: '^agent/(main|daemon/[a-z-]+)\\.ts$' }, { path: '^agent/daemon/' }),
    only(
      'subjects-know-no-use-cases',
      'Each side asks through interfaces that the subjects and their routes define.',
      { path: '^agent/(core|policy|grants|dataplane|directory|triggers|desk|editions|inspector|nat|reports|sqlite|processes|api|files)/' },
      { path: '^agent/(use-cases|daemon)/' },
    ),
    only('nobody-imports-main', 'main knows all and is known by none.', {}, { path: '^agent/(main|cli)\\.ts$' }),
    home('koffi', 'koffi', '^agent/(dataplane/(bpf|netlink|test-run)|host)\\.ts$'),
    home('better-sqlite3', 'better-sqlite3', '^agent/(sqlite/(database|transitions|identity-form)|(grants|triggers)/writes|(inspector/denial|reports/outbox|desk/desk|nat/record)-store|directory/registry-(store|import))\\.ts$'),
    home('papaparse', 'papaparse', '^agent/directory/device-rows\\.ts$'),
    home('cap', 'cap', '^agent/inspector/nflog\\.ts$'),
    home('coap-packet', 'coap-packet', '^agent/triggers/coap-message\\.ts$'),
    home('fastify', 'fastify(-openapi-glue)?', '^agent/api/'),
    home('asn1', '@peculiar/asn1-(schema|x509)', '^agent/api/crl\\.ts$'),
    home('yaml', '(js-)?yaml', '^agent/core/yaml\\.ts$'),
    home('cel', '@marcbachmann/cel-js', '^agent/policy/condition\\.ts$'),
    home('ip-address', '(ip-address|netmask)', '^agent/core/net\\.ts$'),
    home('commander', 'commander', '^agent/cli(/|\\.ts$)'),
    home('pino', 'pino', '^agent/host\\.ts$'),
    home('prom-client', 'prom-client', '^agent/metrics\\.ts$'),
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: { extensions: ['.ts', '.js'], conditionNames: ['import', 'require', 'node', 'default', 'types'] },
  },
};
