/**
 * `completion`: the shells' side of completing a command line. Each script
 * hands the words up to the cursor to `mtgate complete-words`, which answers
 * with candidates (candidates.ts), one a line: word, tab, what it is; or
 * `:files` where a path stands.
 *
 * Own code, since @bomb.sh/tab completes no paths, takes no values that have
 * to be waited for, and breaks in bash at the @ of a device's name.
 */
import { Argument, type Command } from 'commander';
import type { EditionRow } from '../api/edition-routes.ts';
import type { BindingRow, GrantRows } from '../api/operator-rows.ts';
import type { TriggerList } from '../api/trigger-routes.ts';
import type { UserRow } from '../api/user-routes.ts';
import { type Candidate, candidates, FILES, type Values } from './candidates.ts';
import { call } from './client.ts';
import { explainUse } from './help.ts';

/** A shell at its prompt does not wait longer. */
const PATIENCE_MS = 1_000;

/** bash completes from the last of its word breaks on (@ is one), so what stands before is taken off. */
const BASH = `# bash completion of mtgate
_mtgate() {
	local line=\${COMP_LINE:0:COMP_POINT} words current kept candidate
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=('')
	current=\${words[\${#words[@]}-1]}
	kept=\${current%"\${current##*[$COMP_WORDBREAKS]}"}
	COMPREPLY=()
	while IFS=$'\\t' read -r candidate _; do
		if [[ $candidate == ${FILES} ]]; then compopt -o default; else COMPREPLY+=("\${candidate#"$kept"}"); fi
	done < <("\${words[0]}" complete-words -- "\${words[@]:1}" 2>/dev/null)
}
complete -F _mtgate mtgate
`;

const ZSH = `#compdef mtgate
# zsh completion of mtgate
_mtgate() {
	local line word
	local -a values
	for line in "\${(@f)$("\${words[1]}" complete-words -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		if [[ $line == ${FILES} ]]; then _files; return; fi
		word=\${line%%$'\\t'*}
		[[ -n $word ]] && values+=("\${word//:/\\\\:}\${\${line#$word}/$'\\t'/:}")
	done
	_describe mtgate values
}
if [[ $funcstack[1] == _mtgate ]]; then _mtgate "$@"; else compdef _mtgate mtgate; fi
`;

const FISH = `# fish completion of mtgate
function __mtgate_words
	set -l words (commandline -opc) (commandline -ct)
	for line in ($words[1] complete-words -- $words[2..-1] 2>/dev/null)
		if test "$line" = ${FILES}
			__fish_complete_path (commandline -ct)
		else
			echo $line
		end
	end
end
complete -c mtgate -f -a '(__mtgate_words)'
`;

const SCRIPTS = { bash: BASH, zsh: ZSH, fish: FISH };

export function registerCompletion(program: Command): void {
  explainUse(
    program
      .command('completion')
      .description('print the script that completes mtgate in a shell')
      .addArgument(new Argument('<shell>', 'whose').choices(Object.keys(SCRIPTS)))
      .action((shell: keyof typeof SCRIPTS) => void process.stdout.write(SCRIPTS[shell])),
    {
      more: 'Grants, triggers, devices, servers, MTC users, realms and editions are asked of the running agent; without one they are not offered.',
      examples: [
        'mtgate completion bash > /usr/share/bash-completion/completions/mtgate',
        'mtgate completion zsh > /usr/share/zsh/vendor-completions/_mtgate',
        'mtgate completion fish > /usr/share/fish/vendor_completions.d/mtgate.fish',
      ],
    },
  );

  program.command('complete-words [words...]', { hidden: true }).action(async (words: readonly string[]) => {
    for (const { word, what } of await candidates(program, words, valuesOf(words)))
      process.stdout.write(what ? `${word}\t${what}\n` : `${word}\n`);
  });
}

/** Names that the running agent knows. Nothing where none answers: a prompt is no place for an error. */
function valuesOf(words: readonly string[]): Values {
  const typed = words[words.indexOf('--socket') + 1];
  const named = words.includes('--socket') ? typed : process.env['MTGATE_SOCKET'];
  const ask = { socket: named ?? '/run/mtgate/mtgate.sock' };
  const answer = <Answer>(path: string, none: Answer) =>
    call<Answer>(ask, 'GET', path, undefined, PATIENCE_MS).catch(() => none);
  const rows = <Row>(path: string) => answer<readonly Row[]>(path, []);
  const grants = async (): Promise<Candidate[]> =>
    (await answer<GrantRows>('/grants?limit=1000', { grants: [], total: 0 })).grants.map(
      ({ grantId, server, device, protocol, external }) => ({
        word: grantId,
        what: `${server} to ${device}, ${protocol} ${external}`,
      }),
    );
  const triggers = async (): Promise<Candidate[]> =>
    (await answer<TriggerList>('/triggers?limit=1000', { triggers: [], pending: 0 })).triggers.map(
      ({ triggerId, server, device, port }) => ({ word: triggerId, what: `${server} to ${device}, port ${port}` }),
    );
  const bindings = (column: 'device' | 'realm' | 'address') => async () =>
    (await rows<BindingRow>('/bindings')).map((row) => ({ word: row[column] }));
  const servers = async () => (await rows<string>('/servers')).map((word) => ({ word }));
  return {
    grantId: grants,
    grantIds: grants,
    triggerId: triggers,
    triggerIds: triggers,
    server: servers,
    servers,
    mtcUser: async () =>
      (await rows<UserRow>('/users')).map(({ mtcUser, servers }) => ({ word: mtcUser, what: servers.join(', ') })),
    device: bindings('device'),
    realm: bindings('realm'),
    address: bindings('address'),
    edition: async () =>
      (await rows<EditionRow>('/policy/editions')).map(({ edition, at, by, how }) => ({
        word: String(edition),
        what: `${how} by ${by}, ${at}`,
      })),
  };
}
