/** Names of models on the Hugging Face Hub, as users write and copy them. */
import { LorafuseError, shown } from '../../errors.js'

/** A repository of models at a revision, or one file in it. */
export interface HubName {
  /** `owner/name`. */
  repository: string
  /** A branch, a tag or a commit. */
  revision: string
  file?: string
}

/** The names of files that hold weights. */
export const WEIGHTS = /\.(safetensors|ckpt|pth?|bin)$/i
/** As huggingface/huggingface_hub:src/huggingface_hub/utils/_validators.py has it. */
const NAME = /^(?!.*(--|\.\.))\w([\w.-]{0,94}\w)?$/
/** Revisions that hold a slash; in others it is written as %2F (huggingface_hub:utils/_hf_uris.py). */
const SPECIAL = /^(refs\/pr\/\d+|refs\/convert\/[\w.-]+)(?:\/(.*))?$/
const REVISION = /^(?!.*\.\.)\w[\w./-]*$/
/** What follows the repository in the address of a file's or folder's page. */
const PAGES = ['blob', 'resolve', 'raw', 'blame', 'tree']

/** Leaves a text as it is whose percent signs encode nothing. */
export function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** Splits what follows `@`, or a page's word, into a revision and a path. */
function splitRevision(text: string): { revision: string; path: string } {
  const [, special, rest = ''] = SPECIAL.exec(text) ?? []
  if (special !== undefined) return { revision: special, path: rest }
  const [revision = '', ...path] = text.split('/')
  return { revision: decoded(revision), path: path.join('/') }
}

/** Undefined unless all parts may be names on the Hub; no part of them leads out of a folder. */
function checked(repository: string, revision: string, path: string): HubName | undefined {
  const names = repository.split('/')
  if (names.length !== 2 || !names.every((name) => NAME.test(name)) || repository.endsWith('.git')) return undefined
  if (!REVISION.test(revision)) return undefined
  if (path === '') return { repository, revision }
  const whole = path.split('/').every((part) => part !== '' && part !== '.' && part !== '..' && !/[\\\0]/.test(part))
  return whole && WEIGHTS.test(path) ? { repository, revision, file: path } : undefined
}

function fromAddress(text: string, endpoint: string): HubName {
  const invalid = (received: string) => {
    const expected = `Expected a path, owner/name or the address of a model on ${endpoint}`
    return new LorafuseError('OPTION_INVALID', `${expected} but received ${shown(text)}${received}`)
  }
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !['huggingface.co', 'www.huggingface.co', 'hf.co', new URL(endpoint).host].includes(url.host)) {
    throw invalid('; download the file yourself and give its path')
  }
  const [owner, name, page = '', ...rest] = url.pathname.split('/').filter((part) => part !== '')
  if (name === undefined) throw invalid(`, which names none; give the address of a model's own page, as in ${endpoint}/owner/name`)
  const { revision, path } = PAGES.includes(page) ? splitRevision(rest.join('/')) : { revision: page === '' ? 'main' : '', path: '' }
  const found = checked(`${owner}/${name}`, revision, path.split('/').map(decoded).join('/'))
  if (!found) throw invalid(', which is no page of a repository of models or of a checkpoint in one')
  return found
}

/**
 * Reads `owner/name`, `owner/name@revision`, `owner/name/file.safetensors`, `owner/name@revision/file.safetensors`, or the address of such a
 * page. Undefined if it can be none but a path. Throws `OPTION_INVALID` for other addresses.
 */
export function parseHubName(text: string, endpoint: string): HubName | undefined {
  if (/^https?:\/\//i.test(text)) return fromAddress(text, endpoint)
  const [, repository = '', marked, plain = ''] = /^([^/@]+\/[^/@]+)(?:@(.*)|\/(.*))?$/s.exec(text) ?? []
  // `folder/file.safetensors` is a file that is not there.
  if (marked === undefined) return WEIGHTS.test(repository) || text.endsWith('/') ? undefined : checked(repository, 'main', plain)
  const { revision, path } = splitRevision(marked)
  return checked(repository, revision, path)
}
