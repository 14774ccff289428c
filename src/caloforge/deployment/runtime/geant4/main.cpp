// A Geant4 application with a trained model in its calorimeter: lead and liquid argon (CaloGAN's stack, 80 x (2 mm + 4 mm)) behind
// 10 mm of aluminium. Replace `Calorimeter` by your own detector; what belongs to the model is in ConstructSDandField.
//
//     shower [PARTICLE [GEV [EVENTS [SEED [MODEL ...]]]]] > events.csv
//
// Models are folders, each for a species; "none" stands for Geant4 alone.
#include <FTFP_BERT.hh>
#include <G4Box.hh>
#include <G4Event.hh>
#include <G4FastSimulationPhysics.hh>
#include <G4LogicalVolume.hh>
#include <G4NistManager.hh>
#include <G4PVPlacement.hh>
#include <G4ParticleGun.hh>
#include <G4ParticleTable.hh>
#include <G4Region.hh>
#include <G4RunManager.hh>
#include <G4RunManagerFactory.hh>
#include <G4SDManager.hh>
#include <G4Step.hh>
#include <G4SystemOfUnits.hh>
#include <G4UserEventAction.hh>
#include <G4VFastSimSensitiveDetector.hh>
#include <G4VSensitiveDetector.hh>
#include <G4VUserActionInitialization.hh>
#include <G4VUserDetectorConstruction.hh>
#include <G4VUserPrimaryGeneratorAction.hh>
#include <Randomize.hh>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "caloforge/geant4.hpp"
#include "caloforge/geant4_hits.hpp"

namespace {

constexpr int kPlates = 80;
constexpr double kLead = 2 * mm, kArgon = 4 * mm, kDepth = kPlates * (kLead + kArgon);

// Energy in the plates: of Geant4's steps, and of the model's hits. Both are needed: what the model does not answer is tracked.
class Plates : public G4VSensitiveDetector, public G4VFastSimSensitiveDetector {
public:
    Plates() : G4VSensitiveDetector("plates") {}
    void Initialize(G4HCofThisEvent*) override { energy.fill(0); }
    std::array<double, kPlates> energy{};

private:
    G4bool ProcessHits(G4Step* step, G4TouchableHistory*) override {
        energy[size_t(step->GetPreStepPoint()->GetTouchableHandle()->GetCopyNumber())] += step->GetTotalEnergyDeposit();
        return true;
    }
    G4bool ProcessHits(const G4FastHit* hit, const G4FastTrack*, G4TouchableHistory* place) override {
        energy[size_t(place->GetCopyNumber())] += hit->GetEnergy();
        return true;
    }
};

class Calorimeter : public G4VUserDetectorConstruction {
public:
    // Without models Geant4 tracks everything.
    Calorimeter(std::vector<std::shared_ptr<const caloforge::Model>> models, uint64_t seed) : models_(std::move(models)), seed_(seed) {}

    Plates* plates() const { return plates_; }
    caloforge::geant4::Report report() const {
        caloforge::geant4::Report sum;
        for (const caloforge::geant4::FastSimulation* answers : answers_) sum += answers->report();
        return sum;
    }
    const caloforge::geant4::SensitiveHits& hits() const { return *hits_; }

    G4VPhysicalVolume* Construct() override {
        G4NistManager* nist = G4NistManager::Instance();
        G4Material* vacuum = nist->FindOrBuildMaterial("G4_Galactic");
        G4VPhysicalVolume* world = put("world", 600 * mm, 1000 * mm, vacuum, nullptr, 0);
        put("upstream", 500 * mm, 5 * mm, nist->FindOrBuildMaterial("G4_Al"), world->GetLogicalVolume(), -kDepth / 2 - 105 * mm);
        G4LogicalVolume* stack = put("stack", 500 * mm, kDepth / 2, vacuum, world->GetLogicalVolume(), 0)->GetLogicalVolume();
        for (int k = 0; k < kPlates; ++k) {
            const double front = -kDepth / 2 + k * (kLead + kArgon);
            lead_ = put("lead", 500 * mm, kLead / 2, nist->FindOrBuildMaterial("G4_Pb"), stack, front + kLead / 2, k, lead_)->GetLogicalVolume();
            argon_ = put("argon", 500 * mm, kArgon / 2, nist->FindOrBuildMaterial("G4_lAr"), stack, front + kLead + kArgon / 2, k, argon_)
                         ->GetLogicalVolume();
        }
        region_ = new G4Region("calorimeter");
        region_->AddRootLogicalVolume(stack);
        return world;
    }

    // Called once in each thread: models, navigators and sensitive detectors are the thread's own, the weights are shared.
    void ConstructSDandField() override {
        plates_ = new Plates;
        G4SDManager::GetSDMpointer()->AddNewDetector(plates_);
        // The models were trained on deposits in lead and argon; of those that know the active material only, lead stays without.
        for (G4LogicalVolume* volume : {lead_, argon_}) SetSensitiveDetector(volume, plates_);
        caloforge::geant4::Settings settings;
        settings.seed = seed_;
        settings.max_offset = 20 * mm;  // in the middle of the face, which is the side of the stack with the lowest z
        hits_.emplace();
        for (const auto& model : models_) {
            const std::string name = "caloforge-" + std::to_string(model->info().particle);
            answers_.push_back(new caloforge::geant4::FastSimulation(name, region_, model, *hits_, settings));
        }
    }

private:
    static G4VPhysicalVolume* put(const char* name, double half, double half_z, G4Material* material, G4LogicalVolume* mother, double z,
                                  int number = 0, G4LogicalVolume* volume = nullptr) {
        if (!volume) volume = new G4LogicalVolume(new G4Box(name, half, half, half_z), material, name);
        return new G4PVPlacement(nullptr, G4ThreeVector(0, 0, z), volume, name, mother, false, number);
    }

    const std::vector<std::shared_ptr<const caloforge::Model>> models_;
    const uint64_t seed_;
    G4LogicalVolume *lead_ = nullptr, *argon_ = nullptr;
    G4Region* region_ = nullptr;
    Plates* plates_ = nullptr;
    std::vector<const caloforge::geant4::FastSimulation*> answers_;
    std::optional<caloforge::geant4::SensitiveHits> hits_;
};

class Primaries : public G4VUserPrimaryGeneratorAction {
public:
    Primaries(const std::string& particle, double energy) {
        gun_.SetParticleDefinition(G4ParticleTable::GetParticleTable()->FindParticle(particle));
        gun_.SetParticleEnergy(energy);
        gun_.SetParticleMomentumDirection(G4ThreeVector(0, 0, 1));
        gun_.SetParticlePosition(G4ThreeVector(0, 0, -kDepth / 2 - 300 * mm));
    }
    void GeneratePrimaries(G4Event* event) override { gun_.GeneratePrimaryVertex(event); }

private:
    G4ParticleGun gun_{1};
};

class Events : public G4UserEventAction {
public:
    explicit Events(const Calorimeter* calorimeter) : calorimeter_(calorimeter) {}
    void EndOfEventAction(const G4Event* event) override {
        double sum = 0, moment = 0;
        const std::array<double, kPlates>& energy = calorimeter_->plates()->energy;
        for (size_t k = 0; k < kPlates; ++k) sum += energy[k], moment += energy[k] * (double(k) + 0.5) * (kLead + kArgon);
        std::printf("%d,%.6g,%.6g\n", event->GetEventID(), sum / MeV, sum > 0 ? moment / sum / mm : 0);
    }

private:
    const Calorimeter* calorimeter_;
};

class Actions : public G4VUserActionInitialization {
public:
    Actions(const Calorimeter* calorimeter, std::string particle, double energy)
        : calorimeter_(calorimeter), particle_(std::move(particle)), energy_(energy) {}
    void Build() const override {
        SetUserAction(new Primaries(particle_, energy_));
        SetUserAction(new Events(calorimeter_));
    }

private:
    const Calorimeter* calorimeter_;
    const std::string particle_;
    const double energy_;
};

}  // namespace

int main(int count, char** arguments) {
    const std::string particle = count > 1 ? arguments[1] : "gamma";
    const double energy = (count > 2 ? std::atof(arguments[2]) : 20.0) * GeV;
    const int events = count > 3 ? std::atoi(arguments[3]) : 100;
    const long seed = count > 4 ? std::atol(arguments[4]) : 1;
    std::vector<std::string> folders(arguments + (count > 5 ? 5 : count), arguments + count);
    if (folders.empty()) folders = {CALOFORGE_MODEL};
    if (folders[0] == "none") folders.clear();
    try {
        std::vector<std::shared_ptr<const caloforge::Model>> models;
        for (const std::string& folder : folders) models.push_back(std::make_shared<const caloforge::Model>(folder));

        G4Random::setTheSeed(seed);
        const std::unique_ptr<G4RunManager> manager(G4RunManagerFactory::CreateRunManager(G4RunManagerType::Serial));
        auto* calorimeter = new Calorimeter(models, uint64_t(seed));
        manager->SetUserInitialization(calorimeter);
        auto* physics = new FTFP_BERT;
        auto* fast = new G4FastSimulationPhysics;  // without it nobody is asked
        for (const char* name : {"gamma", "e-", "e+", "pi-", "pi+"}) fast->ActivateFastSimulation(name);
        physics->RegisterPhysics(fast);
        manager->SetUserInitialization(physics);
        if (!G4ParticleTable::GetParticleTable()->FindParticle(particle)) {
            std::fprintf(stderr, "shower: Geant4 does not know the particle '%s'\n", particle.c_str());
            return 1;
        }
        manager->SetUserInitialization(new Actions(calorimeter, particle, energy));
        manager->Initialize();

        std::printf("event,energy_MeV,mean_depth_mm\n");
        const auto began = std::chrono::steady_clock::now();
        manager->BeamOn(events);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        std::fprintf(stderr, "%.3g ms per event\n", events > 0 ? 1000 * seconds / events : 0);
        if (!models.empty()) {
            using caloforge::geant4::Reason;
            const caloforge::geant4::Report report = calorimeter->report();
            for (Reason reason : {Reason::answered, Reason::below, Reason::above, Reason::angle, Reason::offset, Reason::failed})
                std::fprintf(stderr, "%8llu %s\n", static_cast<unsigned long long>(report.of(reason)), text_of(reason));
            std::fprintf(stderr, "answered %.6g MeV with %.6g MeV, of which %.6g MeV in no sensitive detector\n", report.energy / MeV,
                         report.deposited / MeV, calorimeter->hits().report().lost_energy / MeV);
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "shower: %s\n", error.what());
        return 1;
    }
    return 0;
}
