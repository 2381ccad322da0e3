#compdef swarmctl
# Completion of swarmctl for zsh.
# Made by `python -m tools.completions` from the command tree of swarmctl; do not edit.
#
# Nothing is started, and no file name is ever evaluated: names come from globbing.

# Set REPLY to where $1 (profiles or nodes) are kept, below $2 unless SWARMCTL_HOME says otherwise.
_swarmctl_directory() {
  local home=${SWARMCTL_HOME-}
  [[ $home == \~ || $home == \~/* ]] && home=$HOME${home#\~}
  REPLY=${home:-$HOME/$2}/$1
}

_swarmctl_nodes() {
  local REPLY expl
  _swarmctl_directory nodes .local/share/swarmctl
  local -a names=($REPLY/*(N-/:t))
  names=(${names:#*[[:cntrl:]]*})
  _wanted nodes expl node compadd -a names
}

_swarmctl_profile_names() {
  local REPLY expl
  _swarmctl_directory profiles .config/swarmctl
  local -aU names=(cpu default demo gpu mac $REPLY/*.toml(N:t:r))
  names=(${names:#*[[:cntrl:]]*})
  _wanted profiles expl profile compadd -a names
}

_swarmctl_profiles() {
  _swarmctl_profile_names || _files -g '*.toml'
}

_swarmctl_settings() {
  local expl key=${PREFIX%%\=*}
  local -a list
  if ! compset -P 1 '*='; then
    list=(
      'checkpoint.every:Rounds between checkpoints'
      'checkpoint.keep:Checkpoints kept: should the newest be damaged, the one before is used'
      'eval.every:Rounds between evaluations; there is always one before and one after'
      'eval.questions:Held-out questions, known to this node alone'
      'game.group_size:G: completions of one question'
      'game.groups:I: questions a round, each answered by a whole group'
      'game.kind:"sampling": one stage, I local groups and J of peers (swarm sampling, arXiv 2509.08721)'
      'game.partial_credit:Reward what the verifier gives for near misses'
      'game.role:How the node speaks in "study-group"; "random": another for each question'
      'game.rounds:Rounds in the node'\''s whole life'
      'generation.batch:Completions generated at a time'
      'generation.max_completion_tokens:Length at which a completion is cut'
      'generation.max_prompt_tokens:A question whose prompt is longer is skipped with a warning; prompts are never cut'
      'generation.temperature:Sampling temperature; the loss scores the same distribution'
      'hub.every:Rounds between pushes; there is always one after the last round'
      'hub.private:Whether a repository that is made here is private'
      'hub.repo:Repository on the Hugging Face hub, OWNER/NAME; it is made if there is none'
      'model.device:"auto" takes the best of CUDA, MPS, XPU and CPU; or one of cuda, cuda:1, mps, xpu, cpu'
      'model.dtype:Number format of the computation'
      'model.gradient_checkpointing:Recompute activations in the backward pass: less memory, about a third slower'
      'model.lora.alpha:Scale: the update is multiplied by alpha / rank'
      'model.lora.dropout:Dropout on the adapter'\''s input while training'
      'model.lora.rank:Rank r of the update B·A'
      'model.lora.targets:Which modules get an adapter: "all-linear", or names separated by commas'
      'model.name:A causal language model: an id on the hub, a directory, or "tiny" (built on the spot, for the demo)'
      'model.revision:Branch, tag or commit on the hub'
      'model.threads:CPU threads of torch'
      'node.fresh:Start from nothing at every run'
      'node.name:Name of the node, and of its directory'
      'node.seed:Seed of sampling and of adapter weights'
      'offload.ahead:Rounds whose completions are asked for while the step before them is still being trained'
      'offload.batch:Ask through the provider'\''s Batch API: half the price, answers within 24 hours'
      'offload.fallback:Who generates while the provider cannot, in order: providers, or "local"'
      'offload.key:The one place the key may come from'
      'offload.kind:What the API'\''s text is, and so what is learned from it'
      'offload.limits.concurrency:Requests in flight'
      'offload.limits.requests_per_minute:A limit that the service states'
      'offload.limits.timeout:Seconds that one request may take'
      'offload.limits.tokens_per_minute:The same for tokens, of prompts and completions together'
      'offload.limits.usd:Dollars that this node may spend in its whole life, at all providers together'
      'offload.limits.usd_per_day:Dollars a day (UTC)'
      'offload.model:The model to ask'
      'offload.on_limit:What happens when a cap is reached'
      'offload.prices:Prices by provider, before those that are known here'
      'offload.provider:A row of the provider table, or a [providers.NAME] of one'\''s own'
      'offload.reasoning_effort:How much a reasoning model thinks'
      'offload.reasoning_tokens:Tokens a reasoning model may think, beside generation.max_completion_tokens for its answer'
      'offload.rounds:Rounds in which the API generates: "*", "0-9,20-29", "100-" or "every 3"'
      'offload.share:Part of each group that the API fills; this machine fills the rest'
      'offload.stages:Stages in which the API generates'
      'offload.when:"failed": this machine samples whole groups, and the API is asked only where none of them is right'
      'providers:'
      'report.to:Any of "tensorboard" (files in the node'\''s directory) and "wandb"'
      'swarm.announce:Addresses under which others reach this node, as /ip4/203.0.113.7/tcp/4001'
      'swarm.external:J: groups of peers that a step of the game "sampling" learns from'
      'swarm.join:An invitation, swarm1:HASH@ADDRESS,…: it stands for the swarm'\''s charter, which fixes tasks and game'
      'swarm.loopback:Listen on this machine alone'
      'swarm.port:Port to listen on'
      'swarm.relay:Let peers with a public address pass on connections to nodes that cannot be reached directly'
      'tasks:'
      'train.beta:Weight of the KL penalty on own rows'
      'train.delta:Two-sided clip: the largest ratio for negative advantages, on rows served elsewhere'
      'train.epsilon:Lower clip of the importance ratio'
      'train.epsilon_high:Upper clip of the importance ratio (clip-higher, DAPO section 3.1)'
      'train.learning_rate:Peak learning rate of AdamW'
      'train.max_grad_norm:Gradients are clipped to this norm'
      'train.max_lag:Rows of the node'\''s own policy older than this many steps are dropped'
      'train.micro_batch:Rows of one forward and backward pass'
      'train.off_policy_weight:λ: weight of the loss of foreign rows beside that of own rows'
      'train.peer_loss:What is learned from peers'\'' groups: positive advantages only, both signs (arXiv 2509.08721), or filtered truncated importance sampling (arXiv 2605.22537)'
      'train.teacher_loss:What is learned from a teacher'\''s verified text: weighted likelihood, or policy shaping (arXiv 2504.14945)'
      'train.warmup_steps:Steps over which the learning rate rises; it is constant afterwards, as a node has no planned end'
      'train.weight_decay:Decoupled weight decay'
      'warmup.batch:Demonstrations a step'
      'warmup.learning_rate:Learning rate of the warm-up alone'
      'warmup.steps:Optimizer steps'
    )
    _describe -t settings setting list -S = -q
    return
  fi
  case $key in
    game.kind) list=(sampling study-group) ;;
    game.partial_credit) list=(true false) ;;
    game.role) list=(none pirate knight mobster announcer founder random) ;;
    hub.private) list=(true false) ;;
    model.device) list=(auto cpu cuda mps xpu) ;;
    model.dtype) list=(auto float32 bfloat16 float16) ;;
    model.gradient_checkpointing) list=(true false) ;;
    node.fresh) list=(true false) ;;
    offload.batch) list=(true false) ;;
    offload.key) list=(auto key_file environment credentials keyring file) ;;
    offload.kind) list=(auto policy policy_text teacher relay) ;;
    offload.on_limit) list=(stop local) ;;
    offload.provider) list=(off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm) ;;
    offload.when) list=(always failed) ;;
    swarm.loopback) list=(true false) ;;
    swarm.relay) list=(true false) ;;
    tasks) list=(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles) ;;
    train.peer_loss) list=(positive sapo f_tis) ;;
    train.teacher_loss) list=(gated luffy) ;;
    *) _message value; return 1 ;;
  esac
  _wanted values expl value compadd -a list
}

_swarmctl() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '--version[Print the version]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'run:Start a node, or go on with it where it stopped'
        'doctor:Check this machine, the installation and a profile; say what cures each trouble'
        'status:Tell how the nodes of this machine are: running or not, how far, how accurate'
        'logs:Print what a node'\''s trainer said last'
        'profiles:List, show, check and make profiles: the files that say how a node runs'
        'keys:Save, list, test and delete API keys'
        'rollouts:Show, export and count what was generated for a node: completions, their rewards, where from, at which price'
        'swarm:Create a swarm, invite others and see its peers'
        'identity:Show, create, back up and restore node identities'
        'completion:Complete commands, options, profiles and nodes with the Tab key, in bash, zsh and fish'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        run) _swarmctl__run && ret=0 ;;
        doctor) _swarmctl__doctor && ret=0 ;;
        status|ps) _swarmctl__status && ret=0 ;;
        logs) _swarmctl__logs && ret=0 ;;
        profiles|profile) _swarmctl__profiles && ret=0 ;;
        keys|key) _swarmctl__keys && ret=0 ;;
        rollouts) _swarmctl__rollouts && ret=0 ;;
        swarm) _swarmctl__swarm && ret=0 ;;
        identity) _swarmctl__identity && ret=0 ;;
        completion) _swarmctl__completion && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__run() {
  _arguments -S \
    '(-p --profile)-p+[Profile\: a name, or a .toml file]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile\: a name, or a .toml file]:PROFILE:_swarmctl_profiles' \
    '--node=[Node; its directory has this name]:NODE:_swarmctl_nodes' \
    '*--task=[Task, preset or FILE.jsonl; may be repeated]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '--model=[An id on the Hugging Face hub, or a directory]:MODEL:_files -/' \
    '--device=[auto, cpu, cuda, cuda\:1, mps or xpu]:DEVICE:(auto cpu cuda mps xpu)' \
    '--rounds=[Rounds in the node'\''s whole life; 0\: until stopped]:N: ' \
    '--seed=[Seed of sampling and adapters]:N: ' \
    '--offload=[Let an API generate; off\: generate on this machine]:PROVIDER\[\:MODEL\]:(off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm)' \
    '--max-usd=[Dollars that the node may spend in its whole life; or unlimited]:USD: ' \
    '--join=[Join a swarm\: the line that `swarmctl swarm invite` prints]:INVITATION: ' \
    '*--set=[Any setting of a profile; may be repeated]:KEY=VALUE:_swarmctl_settings' \
    '--dry-run[Resolve and check everything, touch nothing]' \
    '--plain[One sentence a round instead of the live view]' \
    '--json[Print the result as JSON, last; ask nothing]' \
    '(-q --quiet)-q[Only warnings, errors and the end]' \
    '(-q --quiet)--quiet[Only warnings, errors and the end]' \
    '(-v --verbose)-v[Also say what is saved; show tracebacks]' \
    '(-v --verbose)--verbose[Also say what is saved; show tracebacks]' \
    '(-y --yes)-y[Answer yes to every question]' \
    '(-y --yes)--yes[Answer yes to every question]' \
    '--no-input[Ask nothing; fail where an answer is needed]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__doctor() {
  _arguments -S \
    '(-p --profile)-p+[Profile\: a name, or a .toml file]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile\: a name, or a .toml file]:PROFILE:_swarmctl_profiles' \
    '--node=[Node]:NAME:_swarmctl_nodes' \
    '*--set=[As for run; may be repeated]:KEY=VALUE:_swarmctl_settings' \
    '--deep[Also compute, for up to 2 minutes; and ask each provider for one word, which costs money]' \
    '--offline[Ask nothing of the network]' \
    '--fix[Cure what is safe\: modes, leftovers, missing directories]' \
    '--report[Print Markdown for a bug report, without keys and names]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '*:\[CHECK\]...: '
}

_swarmctl__status() {
  _arguments -S \
    '--node=[One node]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__logs() {
  _arguments -S \
    '--node=[Node]:NODE:_swarmctl_nodes' \
    '(-n --lines)-n+[How many lines]:N: ' \
    '(-n --lines)--lines=[How many lines]:N: ' \
    '(-f --follow)-f[Go on printing what is added]' \
    '(-f --follow)--follow[Go on printing what is added]' \
    '--json[Print events (JSON lines) instead of the log]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__profiles() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'list:List the profiles there are, built-in ones and yours'
        'show:Print every setting of a profile as a run would see it: TOML that can be saved as a profile of your own'
        'validate:Check profiles: every wrong key and value, with the nearest right name'
        'new:Make a profile of your own'
        'import:Make a profile from RL Swarm'\''s YAML, and say what became of every key in it'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        list) _swarmctl__profiles__list && ret=0 ;;
        show) _swarmctl__profiles__show && ret=0 ;;
        validate) _swarmctl__profiles__validate && ret=0 ;;
        new) _swarmctl__profiles__new && ret=0 ;;
        import) _swarmctl__profiles__import && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__profiles__list() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__profiles__show() {
  _arguments -S \
    '--origin[Say where each value comes from]' \
    '*--set=[As for run; may be repeated]:KEY=VALUE:_swarmctl_settings' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':PROFILE:_swarmctl_profiles'
}

_swarmctl__profiles__validate() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':PROFILE:_swarmctl_profiles'
}

_swarmctl__profiles__new() {
  _arguments -S \
    '--from=[The built-in profile it begins with]:BUILTIN:(cpu default demo gpu mac)' \
    '--model=[An id on the Hugging Face hub, or a directory]:MODEL:_files -/' \
    '*--task=[Task or preset; may be repeated]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '--device=[auto, cpu, cuda, cuda\:1, mps or xpu]:DEVICE:(auto cpu cuda mps xpu)' \
    '--rounds=[Rounds; 0\: until stopped]:N: ' \
    '*--set=[Any setting; may be repeated]:KEY=VALUE:_swarmctl_settings' \
    '(-y --yes)-y[Write over a profile of this name]' \
    '(-y --yes)--yes[Write over a profile of this name]' \
    '--no-input[Ask nothing]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME: '
}

_swarmctl__profiles__import() {
  _arguments -S \
    '--name=[Name of the profile]:NAME: ' \
    '--no-test[Do not ask services whether they accept the keys found]' \
    '--insecure-storage[Keep keys in files only you can read, not in the keyring]' \
    '(-y --yes)-y[Write over a profile of this name]' \
    '(-y --yes)--yes[Write over a profile of this name]' \
    '--no-input[Ask nothing]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE.yaml:_files'
}

_swarmctl__keys() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'set:Save an API key (hidden prompt or stdin)'
        'list:List API keys'
        'test:Test whether services accept your keys'
        'delete:Delete a saved key from the keyring or its file'
        'import:Save keys found in the environment or a .env file'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        set) _swarmctl__keys__set && ret=0 ;;
        list) _swarmctl__keys__list && ret=0 ;;
        test) _swarmctl__keys__test && ret=0 ;;
        delete) _swarmctl__keys__delete && ret=0 ;;
        import) _swarmctl__keys__import && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__keys__set() {
  _arguments -S \
    '--host=[Base URL of the API, for a name you choose]:URL: ' \
    '--no-test[Save the key without testing it]' \
    '--insecure-storage[Store the key unencrypted in a file only you can read]' \
    '(-y --yes)-y[Answer yes to every question]' \
    '(-y --yes)--yes[Answer yes to every question]' \
    '--no-input[Ask nothing; fail where an answer is needed]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME:(openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb)'
}

_swarmctl__keys__list() {
  _arguments -S \
    '--json[Print JSON; ask nothing]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__keys__test() {
  _arguments -S \
    '--json[Print JSON; ask nothing]' \
    '--no-input[Ask nothing; fail where an answer is needed]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME:(openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb)'
}

_swarmctl__keys__delete() {
  _arguments -S \
    '--all[Delete every saved key]' \
    '(-y --yes)-y[Answer yes to every question]' \
    '(-y --yes)--yes[Answer yes to every question]' \
    '--no-input[Ask nothing; fail where an answer is needed]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME:(openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb)'
}

_swarmctl__keys__import() {
  _arguments -S \
    '--no-test[Save the key without testing it]' \
    '--insecure-storage[Store the key unencrypted in a file only you can read]' \
    '(-y --yes)-y[Answer yes to every question]' \
    '(-y --yes)--yes[Answer yes to every question]' \
    '--no-input[Ask nothing; fail where an answer is needed]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE:_files'
}

_swarmctl__rollouts() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'show:Print prompts, completions, what each reward is made of and why, source, provider, model and price'
        'export:Write completions as JSON lines or Parquet, a row each, with provider and model on every row'
        'stats:Count requests, tokens, dollars, completions, the share verified as right, and places that were given up'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        show) _swarmctl__rollouts__show && ret=0 ;;
        export) _swarmctl__rollouts__export && ret=0 ;;
        stats) _swarmctl__rollouts__stats && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__rollouts__show() {
  _arguments -S \
    '--node=[Node]:NODE:_swarmctl_nodes' \
    '--round=[Only this round]:N: ' \
    '--question=[Only questions whose digest begins so]:DIGEST: ' \
    '--source=[Only a kind (teacher, policy, …) or a provider (openai, local)]:SOURCE: ' \
    '--last=[How many, the latest]:N: ' \
    '--full[Leave nothing out of long texts]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__rollouts__export() {
  _arguments -S \
    '--node=[Node]:NODE:_swarmctl_nodes' \
    '--round=[Only this round]:N: ' \
    '--question=[Only questions whose digest begins so]:DIGEST: ' \
    '--source=[Only a kind (teacher, policy, …) or a provider (openai, local)]:SOURCE: ' \
    '--last=[How many, the latest]:N: ' \
    '--correct[Only what was verified as right]' \
    '--format=[\[default\: jsonl; parquet for a FILE.parquet\]]:FORMAT:(jsonl parquet)' \
    '(-o --output)-o+[A file, or - for stdout]:FILE:_files' \
    '(-o --output)--output=[A file, or - for stdout]:FILE:_files' \
    '(-y --yes)-y[Write over a file that is there]' \
    '(-y --yes)--yes[Write over a file that is there]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__rollouts__stats() {
  _arguments -S \
    '--node=[Node]:NODE:_swarmctl_nodes' \
    '--by=[What to tell apart\: any of provider,model,stage]:KEYS: ' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__swarm() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'new:Create a swarm and its first node'
        'show:Show a swarm'\''s charter and this machine'\''s node in it'
        'invite:Print the command that others use to join'
        'peers:List the peers that the node knows'
        'leaderboard:Rank peers by what the node learned from them'
        'leave:Leave a swarm and continue alone'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        new) _swarmctl__swarm__new && ret=0 ;;
        show) _swarmctl__swarm__show && ret=0 ;;
        invite) _swarmctl__swarm__invite && ret=0 ;;
        peers) _swarmctl__swarm__peers && ret=0 ;;
        leaderboard) _swarmctl__swarm__leaderboard && ret=0 ;;
        leave) _swarmctl__swarm__leave && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__swarm__new() {
  _arguments -S \
    '(-p --profile)-p+[Profile of the first node]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile of the first node]:PROFILE:_swarmctl_profiles' \
    '*--task=[Task, preset or FILE.jsonl; may be repeated]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '--game=[Game to play]:GAME:(sampling study-group)' \
    '--stage-time=[Seconds per stage of the study-group game]:SECONDS: ' \
    '--open[Let strangers join; limit all peers together to a part of each batch]' \
    '*--set=[Any setting of the first node; may be repeated]:KEY=VALUE:_swarmctl_settings' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME: '
}

_swarmctl__swarm__show() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__swarm__invite() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__swarm__peers() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__swarm__leaderboard() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__swarm__leave() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__identity() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'show:Show the identities of this machine'\''s nodes'
        'new:Create a new identity for a node'
        'backup:Save a node'\''s identity to a file'
        'restore:Restore a node'\''s identity from a backup'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        show) _swarmctl__identity__show && ret=0 ;;
        new) _swarmctl__identity__new && ret=0 ;;
        backup) _swarmctl__identity__backup && ret=0 ;;
        restore) _swarmctl__identity__restore && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__identity__show() {
  _arguments -S \
    '--node=[One node]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__identity__new() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '(-y --yes)-y[Answer yes to every question]' \
    '(-y --yes)--yes[Answer yes to every question]' \
    '--no-input[Ask nothing; fail where an answer is needed]' \
    '--json[Print JSON; ask nothing]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__identity__backup() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--passphrase[Encrypt it with a passphrase (hidden prompt or stdin)]' \
    '(-y --yes)-y[Overwrite an existing file]' \
    '(-y --yes)--yes[Overwrite an existing file]' \
    '--no-input[Ask nothing; fail where an answer is needed]' \
    '--json[Print JSON; ask nothing]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE:_files'
}

_swarmctl__identity__restore() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '(-y --yes)-y[Answer yes to every question]' \
    '(-y --yes)--yes[Answer yes to every question]' \
    '--no-input[Ask nothing; fail where an answer is needed]' \
    '--json[Print JSON; ask nothing]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE:_files'
}

_swarmctl__completion() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'install:Put the script where the shell looks for completions'
        'uninstall:Remove what install wrote'
        'show:Print the script, to be put anywhere'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        install) _swarmctl__completion__install && ret=0 ;;
        uninstall) _swarmctl__completion__uninstall && ret=0 ;;
        show) _swarmctl__completion__show && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__completion__install() {
  _arguments -S \
    '(-y --yes)-y[Also a file that swarmctl did not write]' \
    '(-y --yes)--yes[Also a file that swarmctl did not write]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':SHELL:(bash zsh fish)'
}

_swarmctl__completion__uninstall() {
  _arguments -S \
    '(-y --yes)-y[Also a file that swarmctl did not write]' \
    '(-y --yes)--yes[Also a file that swarmctl did not write]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':SHELL:(bash zsh fish)'
}

_swarmctl__completion__show() {
  _arguments -S \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':SHELL:(bash zsh fish)'
}

# As a file of fpath this is the body of _swarmctl, and this is its first call.
if [[ ${funcstack[1]-} == _swarmctl ]]; then
  _swarmctl "$@"
elif (( $+functions[compdef] )); then
  compdef _swarmctl swarmctl
fi
