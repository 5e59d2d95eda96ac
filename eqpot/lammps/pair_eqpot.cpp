// pair_style eqpot: potentials of eqpot in LAMMPS, on any number of ranks; built by `eqpot lammps build`.
//
// This file speaks to LAMMPS: it gathers a rank's atoms and edges from the neighbour list, copies rows from
// owners to ghosts where the network's blocks ask for it, and tallies energies, forces and virials. Everything
// else is in eqpot/lammps/pair.py, run by the interpreter of the environment that this was built in. Which edges
// a rank needs, and what is exchanged when, is derived in eqpot/engines/by_ranks.py.
//
// In here lengths are in Å and energies in eV; `unit` is an eV in the units of the script.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "library.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

using namespace LAMMPS_NS;

namespace {

constexpr size_t IN_FLIGHT = 1 << 20;    // bytes from a rank to another at a time

// While one lives, this thread may call Python.
struct Lock {
  PyGILState_STATE state = PyGILState_Ensure();
  ~Lock() { PyGILState_Release(state); }
};

// What goes wrong in here and in Python, told by LAMMPS' own errors.
struct Fault {
  std::string text;
};

// Starts the interpreter, unless LAMMPS runs in one. Signals stay LAMMPS' and MPI's.
void start_python()
{
  if (Py_IsInitialized()) return;
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.install_signal_handlers = 0;
  PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, EQPOT_PYTHON);
  // Python's module signal takes Ctrl-C when it is first imported, whatever install_signal_handlers says.
  auto interrupt = std::signal(SIGINT, SIG_DFL);
  if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
  if (!PyStatus_Exception(status)) Py_XDECREF(PyImport_ImportModule("signal"));
  std::signal(SIGINT, interrupt);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status))
    throw Fault{std::string("Python of " EQPOT_PYTHON " does not start: ") +
                (status.err_msg ? status.err_msg : "unknown reason")};
  PyEval_SaveThread();
}

std::string text_of(PyObject *object)
{
  PyObject *words = object ? PyObject_Str(object) : nullptr;
  const char *bytes = words ? PyUnicode_AsUTF8(words) : nullptr;
  std::string text = bytes ? bytes : "unknown error";
  Py_XDECREF(words);
  PyErr_Clear();
  return text;
}

// Throws Python's error as a line of text.
[[noreturn]] void throw_python()
{
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  PyObject *module = PyImport_ImportModule("eqpot.lammps.pair");
  PyObject *line = module ? PyObject_CallMethod(module, "told", "O", value) : nullptr;
  PyErr_Clear();
  std::string text = text_of(line ? line : value);
  for (PyObject *object : {type, value, trace, module, line}) Py_XDECREF(object);
  throw Fault{text};
}

PyObject *checked(PyObject *object)
{
  if (!object) throw_python();
  return object;
}

long number(PyObject *object, const char *name)
{
  PyObject *found = checked(PyObject_GetAttrString(object, name));
  long value = PyLong_AsLong(found);
  Py_DECREF(found);
  if (PyErr_Occurred()) throw_python();
  return value;
}

PyObject *words(int count, char **arg)
{
  PyObject *list = checked(PyList_New(count));
  for (int k = 0; k < count; k++) PyList_SET_ITEM(list, k, checked(PyUnicode_DecodeFSDefault(arg[k])));
  return list;
}

// An array for Python, which must not outlive it; never without an address.
template <typename T> PyObject *view(std::vector<T> &array, size_t count)
{
  if (array.size() < count + 1) array.resize(count + count / 16 + 1);
  return checked(PyMemoryView_FromMemory((char *) array.data(), count * sizeof(T), PyBUF_WRITE));
}

}    // namespace

class PairEqpot : public Pair {
 public:
  PairEqpot(LAMMPS *lmp) : Pair(lmp)
  {
    restartinfo = 0;
    one_coeff = manybody_flag = 1;
    single_enable = 0;
    comm_forward = 1;
    no_virial_fdotr_compute = 1;    // virials are summed over edges, per atom and in all alike
    centroidstressflag = CENTROID_NOTAVAIL;
  }

  ~PairEqpot() override
  {
    if (allocated) {
      memory->destroy(setflag);
      memory->destroy(cutsq);
    }
    delete[] pvector;
    if (model && Py_IsInitialized()) {
      Lock lock;
      Py_DECREF(model);
    }
  }

  void settings(int narg, char **arg) override
  {
    together([&] {
      start_python();
      Lock lock;
      Py_XDECREF(model);
      model = nullptr;
      PyObject *module = checked(PyImport_ImportModule("eqpot.lammps.pair"));
      PyObject *given = words(narg, arg);
      model = PyObject_CallMethod(module, "Pair", "O", given);
      Py_DECREF(module);
      Py_DECREF(given);
      checked(model);
    });
    // One rank compiles kernels that are not there yet, the others find them.
    for (int turn = 0; turn < 2; turn++)
      together([&] {
        if ((comm->me == 0) != (turn == 0)) return;
        Lock lock;
        Py_DECREF(checked(PyObject_CallMethod(model, "prepare", nullptr)));
      });
    together([&] {
      Lock lock;
      members = (int) number(model, "members");
      PyObject *found = checked(PyObject_GetAttrString(model, "cutoff"));
      cutoff = PyFloat_AsDouble(found);
      Py_DECREF(found);
    });
    comm_reverse = members > 1 ? 3 : 0;
    nextra = members > 1 ? 2 : 0;
    delete[] pvector;
    pvector = nextra ? new double[nextra]() : nullptr;
  }

  void coeff(int narg, char **arg) override
  {
    const int types = atom->ntypes;
    if (narg != 2 + types || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
      error->all(FLERR, "pair_coeff: expected * * and an element, or NULL, for each of " +
                     std::to_string(types) + " atom types");
    if (!allocated) {
      memory->create(setflag, types + 1, types + 1, "pair:setflag");
      memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
      delete[] map;
      map = new int[types + 1];
      allocated = 1;
    }
    map_element2type(narg - 2, arg + 2);
    together([&] {
      Lock lock;
      PyObject *given = words(narg - 2, arg + 2);
      PyObject *found = PyObject_CallMethod(model, "species_of", "O", given);
      Py_DECREF(given);
      checked(found);
      species_of_type.assign(types + 1, -1);
      for (int type = 1; type <= types; type++)
        species_of_type[type] = (int) PyLong_AsLong(PyList_GetItem(found, type - 1));
      Py_DECREF(found);
      n_species = (int) number(model, "n_species");
    });
  }

  void init_style() override
  {
    const bool real = strcmp(update->unit_style, "real") == 0;
    if (!real && strcmp(update->unit_style, "metal") != 0)
      error->all(FLERR, "pair_style eqpot: expected units metal or real, found units " +
                     std::string(update->unit_style));
    unit = real ? utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL) : 1.0;
    if (!force->newton_pair) error->all(FLERR, "pair_style eqpot: expected newton on, found newton off");
    if (atom->molecular != Atom::ATOMIC)
      for (int k = 1; k <= 3; k++)
        if (force->special_lj[k] != 1.0)
          error->all(FLERR, "pair_style eqpot: expected special_bonds lj 1 1 1, found others, by which bonded "
                            "atoms would not see each other");
    neighbor->add_request(this, NeighConst::REQ_FULL);
    if (comm->me == 0 && !doubted && atom->mass) {
      try {
        doubt();
      } catch (Fault &fault) {
        end_all(fault.text);
      }
    }
    doubted = true;
  }

  // What may not be meant, as warnings, once.
  void doubt()
  {
    Lock lock;
    PyObject *masses = checked(PyList_New(0)), *types = checked(PyList_New(0));
    for (int type = 1; type <= atom->ntypes; type++) {
      PyObject *mass = PyFloat_FromDouble(atom->mass[type]), *place = PyLong_FromLong(species_of_type[type]);
      PyList_Append(masses, mass);
      PyList_Append(types, place);
      Py_DECREF(mass);
      Py_DECREF(place);
    }
    PyObject *lines = checked(PyObject_CallMethod(model, "doubts", "OO", masses, types));
    for (Py_ssize_t k = 0; k < PyList_Size(lines); k++)
      error->warning(FLERR, std::string("pair_style eqpot: ") + PyUnicode_AsUTF8(PyList_GetItem(lines, k)));
    Py_DECREF(masses);
    Py_DECREF(types);
    Py_DECREF(lines);
  }

  double init_one(int i, int j) override
  {
    if (!setflag[i][j]) error->all(FLERR, "All pair coeffs are not set");
    return cutoff;
  }

  void compute(int eflag, int vflag) override
  {
    ev_init(eflag, vflag);
    if (neighbor->ago == 0) {
      check_list();
      find_peers();
    }
    try {
      gather();
      walk();
    } catch (Fault &fault) {    // others may be waiting for this rank: all of them end
      end_all(fault.text);
    }
    tally();
  }

  int pack_forward_comm(int n, int *list, double *buffer, int, int *) override
  {
    for (int k = 0; k < n; k++) memcpy(buffer + k, &owner[list[k]], sizeof(int64_t));
    return n;
  }

  void unpack_forward_comm(int n, int first, double *buffer) override
  {
    memcpy(&owner[first], buffer, n * sizeof(int64_t));
  }

  int pack_reverse_comm(int n, int first, double *buffer) override
  {
    std::copy_n(summed + 3 * first, 3 * n, buffer);
    return 3 * n;
  }

  void unpack_reverse_comm(int n, int *list, double *buffer) override
  {
    for (int k = 0; k < n; k++)
      for (int d = 0; d < 3; d++) summed[3 * list[k] + d] += buffer[3 * k + d];
  }

  // Of a committee, for `fix pair`: the standard deviation of an atom's force, a number per atom.
  void *extract_peratom(const char *name, int &columns) override
  {
    columns = 0;
    if (members < 2 || strcmp(name, "deviation") != 0) return nullptr;
    if ((int) deviation.size() < atom->nmax) deviation.resize(atom->nmax);
    return deviation.data();
  }

 private:
  bool doubted = false;
  PyObject *model = nullptr;
  int members = 1, n_species = 0;
  double cutoff = 0, unit = 1;
  std::vector<int> species_of_type;    // -1 for NULL

  // Rows: own atoms by species, then those of others' that are neighbours. An image of an own atom has that one's
  // row, images of one atom of another rank share a row: nothing is sent twice, and less is in the cache.
  int own = 0;
  int64_t edges = 0;
  std::vector<int64_t> owner;     // of each atom: its rank, and the atom's place there
  std::vector<int> source;        // of each atom: the first one here with the same owner, -1 if it is no neighbour
  std::vector<int> row, index;    // of each atom; of each row, the first atom that has it: row[index[k]] = k
  std::vector<int64_t> species, species_ptr, senders, receiver_ptr;
  std::vector<double> edge_vec, energies, slopes;    // slopes: dE/d edge_vec; of each member
  std::vector<double> forces, deviation;

  // With whom rows are exchanged: those of own atoms go out, those of ghosts come in.
  struct Peer {
    int rank;
    std::vector<int> out, in;
    std::vector<double> sent, received;
  };
  std::vector<Peer> peers;
  double *summed = nullptr;    // forces of ghosts that go back to their owners

  // Something that all ranks do, each by itself: where it fails for one, all say so in one line.
  template <typename Action> void together(Action action)
  {
    std::string text;
    int failed = comm->nprocs, first;
    try {
      action();
    } catch (Fault &fault) {
      text = fault.text;
      failed = comm->me;
    }
    MPI_Request agreed;    // asleep: it may take minutes, while another rank compiles
    MPI_Iallreduce(&failed, &first, 1, MPI_INT, MPI_MIN, world, &agreed);
    for (int done = 0; MPI_Test(&agreed, &done, MPI_STATUS_IGNORE), !done;)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (first == comm->nprocs) return;
    int length = (int) text.size();
    MPI_Bcast(&length, 1, MPI_INT, first, world);
    text.resize(length);
    MPI_Bcast(&text[0], length, MPI_CHAR, first, world);
    error->all(FLERR, text);
  }

  // Ends all ranks where one cannot go on. LAMMPS throws when it has told the line, which MPICH's launcher may
  // drop where a rank aborts at once.
  [[noreturn]] void end_all(const std::string &text)
  {
    try {
      error->one(FLERR, text);
    } catch (...) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      throw;
    }
  }

  // Of a new list: whose atoms the neighbours are, and who needs which.
  void find_peers()
  {
    const int local = atom->nlocal, all = local + atom->nghost, me = comm->me, ranks = comm->nprocs;
    owner.resize(all + 1);
    for (int i = 0; i < local; i++) owner[i] = ((int64_t) me << 32) + i;
    comm->forward_comm(this);

    std::vector<char> near(all, 0);
    for (int k = 0; k < list->inum; k++) {
      const int i = list->ilist[k];
      for (int n = 0; n < list->numneigh[i]; n++) near[list->firstneigh[i][n] & NEIGHMASK] = 1;
    }
    std::unordered_map<int64_t, int> first;
    std::vector<std::vector<int>> wanted(ranks), in(ranks);
    source.assign(all, -1);
    for (int i = 0; i < all; i++) {
      const int rank = (int) (owner[i] >> 32), there = (int) (owner[i] & INT32_MAX);
      if (rank == me) source[i] = there;
      if (rank == me || !near[i]) continue;
      source[i] = first.emplace(owner[i], i).first->second;
      if (source[i] == i) {
        wanted[rank].push_back(there);
        in[rank].push_back(i);
      }
    }

    std::vector<int> asking(ranks), asked(ranks), asking_at(ranks + 1, 0), asked_at(ranks + 1, 0), ask;
    for (int rank = 0; rank < ranks; rank++) {
      asking[rank] = (int) wanted[rank].size();
      ask.insert(ask.end(), wanted[rank].begin(), wanted[rank].end());
    }
    MPI_Alltoall(asking.data(), 1, MPI_INT, asked.data(), 1, MPI_INT, world);
    std::partial_sum(asking.begin(), asking.end(), asking_at.begin() + 1);
    std::partial_sum(asked.begin(), asked.end(), asked_at.begin() + 1);
    std::vector<int> answer(asked_at[ranks]);
    MPI_Alltoallv(ask.data(), asking.data(), asking_at.data(), MPI_INT, answer.data(), asked.data(), asked_at.data(),
                  MPI_INT, world);
    peers.clear();
    for (int rank = 0; rank < ranks; rank++)
      if (asking[rank] || asked[rank])
        peers.push_back({rank, {answer.begin() + asked_at[rank], answer.begin() + asked_at[rank + 1]}, in[rank], {}, {}});
  }

  // Copies `numbers` doubles of each row that others need, from owners to ghosts; rows are `stride` bytes apart.
  // So many rows at a time that what is under way stays small beside the rows themselves, and in the cache.
  void exchange(char *rows, Py_ssize_t stride, int numbers)
  {
    const size_t bytes = numbers * sizeof(double), piece = std::max<size_t>(1, IN_FLIGHT / bytes);
    size_t most = 0;
    for (const Peer &peer : peers) most = std::max({most, peer.in.size(), peer.out.size()});
    for (size_t from = 0; from < most; from += piece) {
      const auto count = [&](const std::vector<int> &atoms) {
        return std::min(piece, atoms.size() - std::min(from, atoms.size()));
      };
      std::vector<MPI_Request> requests;
      for (Peer &peer : peers)
        if (const size_t n = count(peer.in)) {
          peer.received.resize(std::min(piece, peer.in.size()) * numbers);
          requests.emplace_back();
          MPI_Irecv(peer.received.data(), (int) (n * numbers), MPI_DOUBLE, peer.rank, 0, world, &requests.back());
        }
      for (Peer &peer : peers)
        if (const size_t n = count(peer.out)) {
          peer.sent.resize(std::min(piece, peer.out.size()) * numbers);
          for (size_t k = 0; k < n; k++)
            memcpy(&peer.sent[k * numbers], rows + row[peer.out[from + k]] * stride, bytes);
          requests.emplace_back();
          MPI_Isend(peer.sent.data(), (int) (n * numbers), MPI_DOUBLE, peer.rank, 0, world, &requests.back());
        }
      MPI_Waitall((int) requests.size(), requests.data(), MPI_STATUSES_IGNORE);
      for (const Peer &peer : peers)
        for (size_t k = 0; k < count(peer.in); k++)
          memcpy(rows + row[peer.in[from + k]] * stride, &peer.received[k * numbers], bytes);
    }
  }

  // Rows, and the edges into own atoms.
  void gather()
  {
    const int all = atom->nlocal + atom->nghost, *type = atom->type;
    const auto known = [&](int i) { return species_of_type[type[i]]; };

    species_ptr.assign(n_species + 1, 0);
    for (int k = 0; k < list->inum; k++)
      if (known(list->ilist[k]) >= 0) species_ptr[known(list->ilist[k]) + 1]++;
    for (int z = 0; z < n_species; z++) species_ptr[z + 1] += species_ptr[z];
    own = (int) species_ptr[n_species];

    row.assign(all, -1);
    index.resize(all);
    std::vector<int64_t> next(species_ptr);
    for (int k = 0; k < list->inum; k++) {
      const int i = list->ilist[k];
      if (known(i) >= 0) row[i] = (int) next[known(i)]++;
    }
    int last = own;
    for (int i = 0; i < all; i++) {
      if (row[i] < 0 && source[i] >= 0) row[i] = source[i] == i ? last++ : row[source[i]];
      if (source[i] == i) index[row[i]] = i;
    }
    index.resize(last);
    species.resize(last + 1);
    for (int k = 0; k < last; k++) species[k] = std::max(known(index[k]), 0);    // those of none send nothing

    int64_t pairs = 0;
    for (int k = 0; k < own; k++) pairs += list->numneigh[index[k]];
    if ((int64_t) senders.size() <= pairs) {
      senders.resize(pairs + pairs / 16 + 1);
      edge_vec.resize(3 * senders.size());
    }
    receiver_ptr.resize(last + 2);
    edges = 0;
    double least = 1;
    const double *x = atom->nmax ? atom->x[0] : nullptr, most = cutoff * cutoff;
    for (int k = 0; k < own; k++) {
      receiver_ptr[k] = edges;
      const int i = index[k], *neighbours = list->firstneigh[i];
      for (int n = 0; n < list->numneigh[i]; n++) {
        const int j = neighbours[n] & NEIGHMASK;
        if (known(j) < 0) continue;
        double *to = &edge_vec[3 * edges], square = 0;
        for (int d = 0; d < 3; d++) {
          to[d] = x[3 * j + d] - x[3 * i + d];
          square += to[d] * to[d];
        }
        senders[edges] = row[j];
        least = std::min(least, square);
        edges += square < most;    // what is farther is written over
      }
    }
    std::fill(receiver_ptr.begin() + own, receiver_ptr.begin() + last + 1, edges);
    if (least < 1e-12) throw Fault{"positions: expected atoms apart from each other, found two at the same place"};
  }

  // What takes pairs from the list is known only when there is one: exclusions, and hybrid styles in which
  // others have a pair of the model's types for themselves. All ranks find the same.
  void check_list()
  {
    if (neighbor->exclude || neighbor->includegroup)
      error->all(FLERR, "pair_style eqpot: expected all pairs, found neigh_modify " +
                     std::string(neighbor->exclude ? "exclude" : "include") + ", which leaves out some");
    for (int a = 1; a <= atom->ntypes && list->ijskip; a++)
      for (int b = 1; b <= atom->ntypes; b++)
        if (species_of_type[a] >= 0 && species_of_type[b] >= 0 && list->ijskip[a][b])
          error->all(FLERR, "pair_style eqpot: expected all pairs of the model's atom types, found " +
                         std::to_string(a) + " " + std::to_string(b) + " given to another style alone");
  }

  // The network, block by block.
  void walk()
  {
    Lock lock;
    const size_t all = index.size();
    PyObject *arrays[] = {view(species, all),
                          view(species_ptr, n_species + 1),
                          view(senders, edges),
                          view(receiver_ptr, all + 1),
                          view(edge_vec, 3 * edges),
                          view(energies, (size_t) members * own),
                          view(slopes, (size_t) members * 3 * edges)};
    PyObject *steps = PyObject_CallMethod(model, "steps", "OOOOOOO", arrays[0], arrays[1], arrays[2], arrays[3],
                                          arrays[4], arrays[5], arrays[6]);
    for (PyObject *array : arrays) Py_DECREF(array);
    checked(steps);
    while (PyObject *step = PyIter_Next(steps)) {
      unsigned long long rows;
      Py_ssize_t stride;
      int bytes;
      const int fine = PyArg_ParseTuple(step, "Kni", &rows, &stride, &bytes);
      Py_DECREF(step);
      if (!fine) break;
      exchange((char *) rows, stride, bytes / (int) sizeof(double));
    }
    Py_DECREF(steps);
    if (PyErr_Occurred()) throw_python();
  }

  // Energies, forces and virials, means over the members, in the units of the script.
  void tally()
  {
    const double share = unit / members;
    const size_t all = row.size(), count = 3 * (size_t) edges;
    double **f = atom->f, energy = 0;
    for (int k = 0; k < own; k++) {
      double e = 0;
      for (int m = 0; m < members; m++) e += share * energies[(size_t) m * own + k];
      energy += e;
      if (eflag_atom) eatom[index[k]] += e;
    }
    if (!std::isfinite(energy)) end_all("pair_style eqpot: expected a finite energy, found NaN or infinity");
    if (eflag_global) eng_vdwl += energy;

    for (int k = 0; k < own; k++) {
      const int i = index[k];
      double total[3] = {0, 0, 0}, w[6] = {0, 0, 0, 0, 0, 0};
      for (int64_t e = receiver_ptr[k]; e < receiver_ptr[k + 1]; e++) {
        double *to = f[index[senders[e]]], d[3];
        const double *r = &edge_vec[3 * e];
        for (int c = 0; c < 3; c++) {
          d[c] = 0;
          for (int m = 0; m < members; m++) d[c] += share * slopes[m * count + 3 * e + c];
          total[c] += d[c];
          to[c] -= d[c];
        }
        if (vflag_either) {
          for (int c = 0; c < 3; c++) w[c] -= r[c] * d[c];
          w[3] -= 0.5 * (r[0] * d[1] + r[1] * d[0]);
          w[4] -= 0.5 * (r[0] * d[2] + r[2] * d[0]);
          w[5] -= 0.5 * (r[1] * d[2] + r[2] * d[1]);
        }
      }
      for (int c = 0; c < 3; c++) f[i][c] += total[c];
      for (int c = 0; c < 6; c++) {
        if (vflag_global) virial[c] += w[c];
        if (vflag_atom) vatom[i][c] += w[c];
      }
    }
    if (members > 1) deviate(all);
  }

  // Standard deviations among the members: of the energy, pvector[0], and of each atom's force, the largest of
  // which is pvector[1]. `compute pair` sums pvector over ranks, so that only one may have it.
  void deviate(size_t all)
  {
    std::vector<double> sums(members, 0.0), totals(members), mean(3 * all, 0.0);
    forces.assign(3 * all * members, 0.0);
    for (int m = 0; m < members; m++) {
      summed = &forces[3 * all * m];
      for (int k = 0; k < own; k++) {
        sums[m] += unit * energies[(size_t) m * own + k];
        for (int64_t e = receiver_ptr[k]; e < receiver_ptr[k + 1]; e++)
          for (int c = 0; c < 3; c++) {
            const double d = unit * slopes[3 * ((size_t) m * edges + e) + c];
            summed[3 * index[k] + c] += d;
            summed[3 * index[senders[e]] + c] -= d;
          }
      }
      comm->reverse_comm(this, 3);
      for (int k = 0; k < 3 * atom->nlocal; k++) mean[k] += summed[k] / members;
    }
    deviation.assign(std::max(atom->nmax, 1), 0.0);
    double mine = 0, most = 0;
    for (int i = 0; i < atom->nlocal; i++) {
      for (int m = 0; m < members; m++)
        for (int c = 0; c < 3; c++) {
          const double off = forces[3 * (all * m + i) + c] - mean[3 * i + c];
          deviation[i] += off * off / members;
        }
      deviation[i] = std::sqrt(deviation[i]);
      mine = std::max(mine, deviation[i]);
    }
    MPI_Reduce(&mine, &most, 1, MPI_DOUBLE, MPI_MAX, 0, world);
    MPI_Reduce(sums.data(), totals.data(), members, MPI_DOUBLE, MPI_SUM, 0, world);
    pvector[0] = pvector[1] = 0;
    if (comm->me != 0) return;
    double middle = 0, square = 0;
    for (double total : totals) middle += total / members;
    for (double total : totals) square += (total - middle) * (total - middle) / members;
    pvector[0] = std::sqrt(square);
    pvector[1] = most;
  }
};

// ---- what the package PLUGIN looks for; the layout of its struct is that of LAMMPS' lammpsplugin.h

namespace {
struct Plugin {
  const char *version, *style, *name, *info, *author;
  void *creator, *handle;
};

Pair *create(LAMMPS *lmp)
{
  return new PairEqpot(lmp);
}

// Whether it is the LAMMPS that this was compiled for; else nothing in lmp is where it is expected.
bool is_ours(void *lmp)
{
  const int here = lammps_version(lmp), tagint_bytes = lammps_extract_setting(lmp, "tagint");
  if (here == EQPOT_LAMMPS && tagint_bytes == (int) sizeof(tagint)) return true;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);    // for the print alone
  if (rank == 0)
    fprintf(stderr,
            "error: pair_style eqpot was built for LAMMPS %d with atom IDs of %d bytes, found %d with %d: run "
            "`eqpot lammps build` for this one\n",
            EQPOT_LAMMPS, (int) sizeof(tagint), here, tagint_bytes);
  return false;
}
}    // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *enroll)
{
  if (!is_ours(lmp)) return;
  Plugin plugin{((LAMMPS *) lmp)->version, "pair", "eqpot", "pair_style eqpot: equivariant interatomic potentials",
                "eqpot", (void *) &create, handle};
  ((void (*)(Plugin *, void *)) enroll)(&plugin, lmp);
}

// For a LAMMPS without PLUGIN, from eqpot/lammps/__main__.py; nonzero where this was built for another one.
extern "C" int eqpot_enroll(void *lmp)
{
  if (!is_ours(lmp)) return 1;
  (*((LAMMPS *) lmp)->force->pair_map)["eqpot"] = &create;
  return 0;
}
