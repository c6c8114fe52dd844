/** Where the Hub and its cache are, from the variables that Python's huggingface_hub reads (its `constants.py`). */
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { LorafuseError, shown } from '../../errors.js'
import { readText, unlessMissing } from '../../files/read.js'
import { decoded } from './name.js'

export interface HubSettings {
  /** The Hub's address, without a slash at its end; messages show it. */
  endpoint: string
  /** The user name and password that stood in the address, as `name:password`; sent to the endpoint alone, instead of the token. */
  login?: string
  /** Sent to the endpoint alone. */
  token: string | undefined
  /** The folder of all cached repositories. */
  cache: string
  /** Nothing is fetched. */
  offline: boolean
  /** How long to wait after a first failure, in milliseconds; twice as long after each further one. */
  retryMs: number
  /** How long a server may send nothing before the connection counts as cut. */
  stallMs: number
}

const MOST_TOKEN_BYTES = 4096

const isTrue = (value = '') => ['1', 'ON', 'YES', 'TRUE'].includes(value.toUpperCase())

/** Takes user name and password out of an address. */
function withoutLogin(address: string): Pick<HubSettings, 'endpoint' | 'login'> {
  const url = new URL(address)
  const { username, password } = url
  if (username === '' && password === '') return { endpoint: address }
  Object.assign(url, { username: '', password: '' })
  return { endpoint: url.href.replace(/\/+$/, ''), login: `${decoded(username)}:${decoded(password)}` }
}

/** Reads the settings; an empty variable counts as none. Throws `OPTION_INVALID` for an `HF_ENDPOINT` that is no address. */
export async function hubSettings(environment: NodeJS.ProcessEnv = process.env): Promise<HubSettings> {
  const home = environment.HOME || homedir()
  const folder = (path: string) =>
    resolve(
      path.replace(/^~(?=\/|$)/, home).replace(/\$(?:(\w+)|\{(\w+)\})/g, (name, plain, braced) => environment[plain ?? braced] ?? name),
    )
  const hfHome = environment.HF_HOME || join(environment.XDG_CACHE_HOME || join(home, '.cache'), 'huggingface')
  const cache = environment.HF_HUB_CACHE || environment.HUGGINGFACE_HUB_CACHE || join(hfHome, 'hub')
  const address = (environment.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '')
  if (!/^https?:/.test(address) || !URL.canParse(address)) {
    // What stands before an @ may be a password.
    const received = shown(address.replace(/^.*@/s, '…@'))
    throw new LorafuseError('OPTION_INVALID', `Expected an address such as https://huggingface.co for HF_ENDPOINT but received ${received}`)
  }
  const file = folder(environment.HF_TOKEN_PATH || join(hfHome, 'token'))
  const invalid = () =>
    new LorafuseError(
      'OPTION_INVALID',
      `Expected a token, one word of letters and digits, in HF_TOKEN or ${file} but received another text`,
    )
  const stored = async () => {
    if (isTrue(environment.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return undefined
    return unlessMissing(readText(file, 'a token', MOST_TOKEN_BYTES)).catch((cause: unknown) => {
      // Bytes that are no UTF-8.
      throw cause instanceof TypeError ? invalid() : cause
    })
  }
  const token = (environment.HF_TOKEN || environment.HUGGING_FACE_HUB_TOKEN || (await stored()) || '').trim()
  if (!/^[\x21-\x7e]*$/.test(token)) throw invalid()
  return {
    ...withoutLogin(address),
    token: token || undefined,
    cache: folder(cache),
    offline: isTrue(environment.HF_HUB_OFFLINE || environment.TRANSFORMERS_OFFLINE),
    retryMs: 1000,
    stallMs: 30_000,
  }
}
