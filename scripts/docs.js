// Writes docs/options.md from the tables of options; with --check says whether it is current. Run `npm run build` first.
import { readFileSync, writeFileSync } from 'node:fs'
import { commands, defaultText, usage } from '../dist/lib/options/help.js'

const cell = (text) => text.replaceAll('|', '\\|').replaceAll('<', '&lt;')
const code = (text) => `\`${text.replaceAll('|', '\\|')}\``

function row([name, option]) {
  const fallback = option.presence === 'required' ? '**required**' : cell(defaultText(option))
  const aliases = (option.kohya ?? []).map((alias) => code(`--${alias}`)).join(' ')
  return `| ${code(usage(name, option))} | ${code(name)} | ${cell(option.kind.expected)} | ${fallback} | ${aliases} | ${cell(option.help)} |`
}

function section([command, { summary, groups }]) {
  const tables = Object.entries(groups).map(([title, table]) => {
    const head = '| Command line | Library | Value | Default | kohya | What it does |\n|---|---|---|---|---|---|'
    return [`### ${title}`, '', head, ...Object.entries(table).map(row)].join('\n')
  })
  return [`## lorafuse ${command}`, summary, ...tables].join('\n\n')
}

const path = new URL('../docs/options.md', import.meta.url)
const intro = [
  '# Options',
  'Made by `node scripts/docs.js` from `lib/options.ts`; do not edit.',
  '`--[no-]flag` is on by default; `--no-flag` turns it off. The library takes the names in camelCase; what stands under “Command line” only the command line has.',
]
const text = `${[...intro, ...Object.entries(commands).map(section)].join('\n\n')}\n`
if (!process.argv.includes('--check')) writeFileSync(path, text)
else if (readFileSync(path, 'utf8') !== text) {
  console.error('docs/options.md is not current; run: node scripts/docs.js')
  process.exitCode = 1
}
