/** What to do instead of kohya's options that are not options here (kohya-ss/sd-scripts:train_network.py, library/train_util.py). */
import { adviceOf, type Instead, namesOf, use } from './instead.js'

const leaveOut = (reason: string) => () => `leave it out: ${reason}`
const missing = (reason: string) => () => `not supported: ${reason}`

const instead: Instead[] = [
  { names: 'network_module', advice: leaveOut('what is trained is a LoRA, as by networks.lora') },
  {
    names: 'cache_latents cache_latents_to_disk cache_text_encoder_outputs cache_text_encoder_outputs_to_disk skip_cache_check',
    advice: leaveOut('latents and text embeddings are computed once and held in memory'),
  },
  { names: 'vae_batch_size text_encoder_batch_size', advice: leaveOut('images and captions are encoded one by one') },
  { names: 'xformers sdpa mem_eff_attn', advice: leaveOut("attention's scores are never in memory as a whole") },
  { names: 'torch_compile dynamo_backend', advice: leaveOut('there is no PyTorch') },
  { names: 'save_model_as use_safetensors', advice: leaveOut('files are safetensors') },
  { names: 'save_state save_state_on_train_end', advice: leaveOut('a state is saved with each checkpoint') },
  { names: 'save_last_n_steps_state save_last_n_epochs_state', advice: leaveOut('the two states that a run wrote last stay') },
  { names: 'save_last_n_steps save_last_n_epochs', advice: missing('all checkpoints stay') },
  { names: 'save_n_epoch_ratio', advice: use, option: 'saveEveryEpochs' },
  { names: 'skip_until_initial_step initial_epoch initial_step', advice: use, option: 'resume' },
  {
    names: 'max_data_loader_n_workers persistent_data_loader_workers cache_info',
    advice: leaveOut('what is trained on is in memory'),
  },
  {
    names: 'lowram highvram cpu_offload_checkpointing',
    advice: leaveOut('memory is planned before the first step'),
  },
  { names: 'prior_loss_weight reg_data_dir', advice: missing('regularization images') },
  {
    names: 'optimizer_type use_8bit_adam use_lion_optimizer optimizer_schedulefree_wrapper schedulefree_wrapper_args fused_backward_pass',
    advice: leaveOut('the optimizer is AdamW'),
  },
  { names: 'optimizer_args', advice: use, option: 'weightDecay' },
  // `lr` is what many call it.
  { names: 'unet_lr lr', advice: use, option: 'learningRate' },
  { names: 'text_encoder_lr1 text_encoder_lr2', advice: (option) => `${use(option)} and both rates after it`, option: 'textEncoderLr' },
  { names: 'caption_extention', advice: use, option: 'captionExtension' },
  { names: 'full_fp16 full_bf16 fp8_base fp8_base_unet', advice: use, option: 'precision' },
  { names: 'no_half_vae', advice: leaveOut('the VAE always has activations in f32') },
  { names: 'disable_mmap_load_safetensors', advice: leaveOut('weights are mapped, not read') },
  { names: 'v2', advice: leaveOut('the family of a model is found from its files') },
  { names: 'tokenizer_cache_dir', advice: leaveOut("the tokenizer is the model's, or comes with lorafuse") },
  { names: 'v_parameterization', advice: (option) => `${use(option)} v_prediction`, option: 'predictionType' },
  {
    names: 'network_weights dim_from_weights base_weights base_weights_multiplier',
    advice: missing('a LoRA is trained from its beginning'),
  },
  { names: 'network_dropout scale_weight_norms', advice: missing('a LoRA has a rank, an alpha and targets') },
  { names: 'network_args', advice: (option) => `${use(option)} and what else it sets, each by itself`, option: 'convRank' },
  {
    names:
      'shuffle_caption keep_tokens keep_tokens_separator caption_separator secondary_separator enable_wildcard caption_prefix caption_suffix ' +
      'caption_dropout_rate caption_dropout_every_n_epochs caption_tag_dropout_rate token_warmup_min token_warmup_step weighted_captions',
    advice: missing('captions are used as they are'),
  },
  { names: 'color_aug face_crop_aug_range', advice: missing('images are flipped and cropped alone') },
  { names: 'resize_interpolation', advice: missing('images are shrunk by area and enlarged by Lanczos, as without it') },
  { names: 'dataset_repeats', advice: (option) => `${use(option)} with N_class folders`, option: 'images' },
  { names: 'dataset_class debug_dataset', advice: missing('a dataset is a folder of images and captions') },
  { names: 'alpha_mask masked_loss conditioning_data_dir', advice: missing('masks') },
  {
    names:
      'noise_offset noise_offset_random_strength multires_noise_iterations multires_noise_discount adaptive_noise_scale ip_noise_gamma ip_noise_gamma_random_strength ' +
      'perlin_noise min_snr_gamma debiased_estimation_loss scale_v_pred_loss_like_noise_pred v_pred_like_loss min_timestep max_timestep ' +
      'loss_type huber_schedule huber_scale huber_c',
    advice: missing('the loss is the plain mean squared error'),
  },
  {
    names:
      'lr_scheduler_type lr_scheduler_args lr_scheduler_num_cycles lr_scheduler_power lr_scheduler_timescale lr_scheduler_min_lr_ratio ' +
      'lr_decay_steps',
    advice: missing('schedulers have no parameters but the warmup'),
  },
  {
    names: 'sample_every_n_steps sample_every_n_epochs sample_at_first sample_prompts sample_sampler',
    advice: () => 'use lorafuse generate',
  },
  {
    names: 'logging_dir log_with log_prefix log_tracker_name log_tracker_config log_config wandb_run_name wandb_api_key',
    advice: leaveOut('a loss curve is written'),
  },
  { names: 'console_log_level console_log_file console_log_simple', advice: leaveOut('progress is on stderr, with --json on stdout') },
  { names: 'dataset_config config_file output_config in_json', advice: () => 'give each option by itself' },
  {
    names: 'validation_seed validation_split validate_every_n_steps validate_every_n_epochs max_validation_steps',
    advice: missing('all images train'),
  },
  {
    names:
      'no_metadata training_comment metadata_title metadata_author metadata_description metadata_license metadata_tags metadata_usage_hint ' +
      'metadata_thumbnail metadata_merged_from metadata_trigger_phrase metadata_preprocessor metadata_is_negative_embedding',
    advice: missing('the metadata says how the LoRA was trained, its title is its name'),
  },
  {
    names:
      'huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token huggingface_repo_visibility ' +
      'save_state_to_huggingface resume_from_huggingface async_upload',
    advice: missing('nothing is uploaded'),
  },
  {
    names:
      'ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph deepspeed zero_stage offload_optimizer_device offload_optimizer_nvme_path ' +
      'offload_param_device offload_param_nvme_path zero3_init_flag zero3_save_16bit_model fp16_master_weights_and_gradients',
    advice: missing('one GPU trains'),
  },
]

const NETWORK_ARGS = 'network_args'

/**
 * Writes kohya's `--network_args conv_dim=4 conv_alpha=1` as options of their own, `--conv-rank=4 --conv-alpha=1`, and others as options that
 * there are not, `--network_args rank_dropout`. `options`: the name of the option for each of kohya's.
 */
export function withoutNetworkArgs(words: string[], options: Map<string, string>): string[] {
  const at = words.findIndex((word) => word === `--${NETWORK_ARGS}` || word.startsWith(`--${NETWORK_ARGS}=`))
  if (at < 0 || options.size === 0) return words
  const [word, ...rest] = words.slice(at) as [string, ...string[]]
  const inline = word.includes('=') ? [word.slice(word.indexOf('=') + 1)] : []
  const next = rest.findIndex((other) => other.startsWith('--'))
  const [own, others] = next < 0 ? [rest, []] : [rest.slice(0, next), rest.slice(next)]
  const written = [...inline, ...own].map((pair) => {
    const [, name = pair, value] = /^([^=]*)=(.*)$/s.exec(pair) ?? []
    const option = options.get(name)
    return option !== undefined && value !== undefined ? `--${option}=${value}` : `--${NETWORK_ARGS} ${name}`
  })
  return [...words.slice(0, at), ...written, ...withoutNetworkArgs(others, options)]
}

/** Says what to do instead of an option that kohya has. `spelt`: writes the name of an option here. */
export function insteadOf(name: string, spelt: (option: string) => string): string | undefined {
  if (name.startsWith(`${NETWORK_ARGS} `)) return `not supported: ${NETWORK_ARGS} are conv_dim=N and conv_alpha=X alone`
  return adviceOf(instead, name, spelt)
}

/** Lists the options that there is advice for. */
export const insteadOfAll = () => namesOf(instead)
